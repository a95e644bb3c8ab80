//! Goal: the admin page shows the API's numbers and does what its buttons say, on a desk and on a phone; the first page
//! lists rooms to who may see them; neither breaks its content policy.
//! Method: Chromium on a node with a publisher, viewers and a join that failed; what is shown is compared with what the
//! API answers.

use serde_json::{Value, json};
use spillway_tests::browser::{Browser, Page};
use spillway_tests::node::{Machine, Node, Start, stderr, stdout};
use spillway_tests::wait::seconds;

fn node_token(node: &Node) -> String {
    let output = node.run(&["token", "--role", "node"]);
    assert!(output.status.success(), "{}", stderr(&output));
    stdout(&output)
}

fn get(node: &Node, token: &str, path: &str) -> Value {
    node.http.ask("GET", path, &[("authorization", &format!("Bearer {token}"))], None).json()
}

fn show(page: &Page<'_>, view: &str) {
    page.run(&format!("location.hash = '#{view}'"));
    page.until(&format!("{view} is shown"), seconds(10), &format!("return spillway.view === '{view}' && spillway.data !== null"));
    page.run("return spillway.refresh()");
}

/// The text of a figure of the overview.
fn figure(page: &Page<'_>, name: &str) -> String {
    page.text(&format!("[data-figure='{name}'] dd"))
}

/// Two clicks: what cannot be taken back is asked once more.
fn press_surely(page: &Page<'_>, within: &str, label: &str) {
    let script = format!(
        "const button = [...document.querySelectorAll({within:?} + ' button')].find((button) => button.textContent === {label:?}); \
         if (!button) return false; button.click(); const asked = button.classList.contains('sure'); button.click(); return asked"
    );
    page.until(&format!("{label} in {within}"), seconds(10), &script);
}

#[test]
fn the_admin_page_shows_what_the_api_says_and_does_what_its_buttons_say() {
    let _machine = Machine::busy();
    let node = Node::start();
    let token = node_token(&node);
    let _publisher = node.publish("demo", "vp8");
    let _viewers = [node.begin(&["play", "demo", "--seconds", "120"]), node.begin(&["play", "demo", "--seconds", "120"])];
    // A join that fails, twice.
    for _ in 0..2 {
        assert_eq!(node.http.offer("/whep/nobody", &node.token_of("nobody", "view", &["--sub", "anna"]), crate::offers::VIEW).code(), "stream_not_live");
    }
    // One that is granted, and whose client never sends a check.
    assert_eq!(node.http.offer("/whep/demo", &node.token_of("demo", "view", &["--sub", "carl"]), crate::offers::VIEW).status, 201);
    let browser = Browser::start();
    let page = browser.open(&format!("{}/admin", node.http.base()));
    page.until("the page asks for a token", seconds(10), "return spillway.state === 'signed-out'");
    page.run("document.querySelector('#credential').value = 'nonsense'; document.querySelector('#sign-in').requestSubmit()");
    page.until("a bad token is refused in words", seconds(10), "return document.querySelector('#sign-in-problem').textContent.includes('Token invalid')");
    page.run(&format!("document.querySelector('#credential').value = {token:?}; document.querySelector('#sign-in').requestSubmit()"));
    page.until("the page is open", seconds(10), "return spillway.state === 'open' && spillway.data.node");

    // Overview: the API's numbers.
    page.until("both viewers are counted, and carl not any more", seconds(40), "return spillway.data.node.used.viewers === 2");
    let api = get(&node, &token, "/v1/node");
    assert_eq!((figure(&page, "Viewers"), figure(&page, "Streams")), (api["used"]["viewers"].to_string(), api["streams"].to_string()));
    assert_eq!(page.text("#node-name"), api["id"].as_str().unwrap_or_default());
    assert_eq!(page.text("a[href='#viewers'] .count"), "2");
    // The chart has a point after ten seconds, and it is the history's.
    page.until("a point of the history", seconds(30), "return spillway.data.history.points.length > 0");
    let shown = page.run("return [document.querySelector('#chart-viewers output').textContent, spillway.data.history.points.at(-1).viewers]");
    assert_eq!(shown[0].as_str().unwrap_or_default(), shown[1].to_string());
    assert!(page.text("#capacity-words").contains("nearest its limit: forwarding threads"), "{}", page.text("#capacity-words"));

    // A limit, and the capacity names it.
    show(&page, "limits");
    page.run("const field = document.querySelector('#limit-viewers_max'); field.value = '2'; field.dispatchEvent(new Event('input', { bubbles: true })); document.querySelector('#limits-form').requestSubmit()");
    page.until("the limit is in force", seconds(10), "return spillway.data.limits.viewers_max === 2 && document.querySelector('#limits-said').textContent === 'In force.'");
    assert_eq!(get(&node, &token, "/v1/limits")["viewers_max"], 2);
    show(&page, "overview");
    page.until("the full limit is named", seconds(10), "return document.querySelector('#capacity-words').textContent .startsWith('100 % used, nearest its limit: viewers')");

    // Streams and viewers.
    show(&page, "streams");
    let stream = get(&node, &token, "/v1/streams")["data"][0].clone();
    page.until("the stream's row", seconds(10), "return document.querySelector('#stream-rows tr')");
    assert_eq!(page.text("#stream-rows [data-label='Room']"), "demo");
    assert_eq!(page.text("#stream-rows [data-label='Viewers']"), stream["viewers"].to_string());
    assert!(page.text("#stream-rows [data-label='Codecs']").contains("VP8"));
    show(&page, "viewers");
    page.until("both rows", seconds(10), "return document.querySelectorAll('#viewer-rows tr').length === 2");
    let search = |words: &str| page.run(&format!("const field = document.querySelector('#search'); field.value = {words:?}; field.dispatchEvent(new Event('input'))"));
    search("nobody at all");
    page.until("nobody fits", seconds(5), "return document.querySelectorAll('#viewer-rows tr').length === 0");
    assert_eq!(page.text("#viewer-count"), "0 of 2");
    let first = get(&node, &token, "/v1/viewers")["data"][0]["id"].as_str().unwrap_or_default().to_owned();
    search(&first);
    page.until("one fits", seconds(5), "return document.querySelectorAll('#viewer-rows tr').length === 1");
    press_surely(&page, "#viewer-rows", "Kick");
    search("");
    page.until("the kicked one is gone", seconds(10), "return document.querySelectorAll('#viewer-rows tr').length === 1");
    assert_eq!(node.http.ask("GET", &format!("/v1/viewers/{first}"), &[("authorization", &format!("Bearer {token}"))], None).status, 404);

    // Attempts: grouped by reason, with the offer and without its password.
    show(&page, "attempts");
    page.until("the failed join", seconds(10), "return document.querySelector(\"[data-code='stream_not_live']\")");
    assert_eq!(page.text("[data-code='stream_not_live'] .chip"), "2");
    let text = page.run("return document.querySelector(\"[data-code='stream_not_live']\").textContent");
    let text = text.as_str().unwrap_or_default();
    assert!(text.contains("anna wanted to watch nobody, 2 times") && text.contains("a=ice-pwd:(masked)"), "{text}");

    let text = page.run("return document.querySelector(\"[data-code='never_connected']\").textContent");
    let text = text.as_str().unwrap_or_default();
    assert!(text.contains("carl wanted to watch demo") && text.contains("a=ice-lite"), "with the answer, too: {text}");

    // A key: its secret is shown, works, and is shown no more.
    show(&page, "keys");
    page.run("const form = document.querySelector('#new-key'); form.role.value = 'read'; form.name.value; form.querySelector('[name=name]').value = 'dash'; form.requestSubmit()");
    page.until("the secret", seconds(10), "return document.querySelector('#secret').open");
    let secret = page.text("#secret-text");
    assert_eq!(get(&node, &secret, "/v1/node")["id"], api["id"]);
    page.run("document.querySelector('#secret button[value=done]').click()");
    page.until("the secret is gone from the page", seconds(5), "return document.querySelector('#secret-text').textContent === ''");
    page.until("its row", seconds(10), "return document.querySelector('#key-rows tr')?.textContent.includes('dash')");
    press_surely(&page, "#key-rows", "Revoke");
    page.until("it is revoked", seconds(10), "return document.querySelectorAll('#key-rows tr').length === 0");

    // What happens is told as it happens.
    show(&page, "events");
    page.until("the log tells of the kicked viewer", seconds(10), "return document.querySelector('#log').textContent.includes('viewer.left')");

    // A reload stays signed in, the token is nowhere in the address; the stream is ended.
    page.run("location.reload()");
    page.until("a reload keeps the token", seconds(10), "return window.spillway?.state === 'open'");
    assert!(!page.url().contains("token") && !page.url().contains("eyJ"), "{}", page.url());
    show(&page, "streams");
    press_surely(&page, "#stream-rows", "End");
    page.until("the stream is gone", seconds(10), "return document.querySelectorAll('#stream-rows tr').length === 0 && spillway.data.streams.length === 0");

    // On a phone nothing is wider than the screen.
    let phone = browser.open(&format!("{}/admin#token={token}", node.http.base()));
    phone.until("open by link", seconds(10), "return spillway.state === 'open' && spillway.data.node");
    phone.resize(390, 844);
    for view in ["overview", "streams", "viewers", "attempts", "keys", "limits", "events"] {
        show(&phone, view);
        let wide = phone.run("return [document.documentElement.scrollWidth, innerWidth]");
        assert!(wide[0].as_u64() <= wide[1].as_u64(), "{view}: {wide}");
    }
    assert_eq!(page.run("return spillway.errors"), json!([]));
    let complaints: Vec<String> = browser.complaints().into_iter().filter(|line| !line.contains("401") && !line.contains("404")).collect();
    assert!(complaints.is_empty(), "{complaints:?}");
}

#[test]
fn a_rooms_admin_sees_its_room_and_the_first_page_lists_rooms_to_who_may_see_them() {
    let _machine = Machine::busy();
    let config = spillway_tests::node::Scratch::new();
    let file = config.0.join("spillway.toml");
    std::fs::write(&file, "[server]\nlist_rooms = \"off\"\n").expect("a file");
    let path = file.display().to_string();
    let node = Node::start_with(&Start { more: &["--shards", "1", "--config", &path], ..Start::default() });
    let _publishers = [node.publish("demo", "vp8"), node.publish("other", "vp8")];
    let browser = Browser::start();
    let page = browser.open(&format!("{}/admin#token={}", node.http.base(), node.token("demo", "admin")));
    page.until("the room's streams", seconds(10), "return spillway.state === 'open' && document.querySelectorAll('#stream-rows tr').length === 1");
    assert_eq!(page.text("#stream-rows [data-label='Room']"), "demo");
    assert!(!page.is_visible("a[href='#keys']") && !page.is_visible("a[href='#limits']"));

    // A stranger is told nothing, a room's admin of its room, everybody of everything where that is wanted.
    let stranger = || node.http.get("/v1/lobby").json();
    assert_eq!(stranger(), json!({ "public": false, "data": [] }));
    let home = browser.open(&format!("{}/#token={}", node.http.base(), node.token("demo", "admin")));
    home.until("its own room is listed", seconds(15), "return [...document.querySelectorAll('#lobby-rooms b')].map((room) => room.textContent).join() === 'demo'");
    std::fs::write(&file, "[server]\nlist_rooms = \"public\"\n").expect("a file");
    spillway_tests::kernel::signal(node.pid("supervisor_pid"), libc::SIGHUP);
    home.until("all rooms are listed", seconds(20), "return [...document.querySelectorAll('#lobby-rooms b')].map((room) => room.textContent).join() === 'demo,other'");
    assert_eq!(stranger()["data"].as_array().map(Vec::len), Some(2));
    let complaints = browser.complaints();
    assert!(complaints.is_empty(), "{complaints:?}");
}
