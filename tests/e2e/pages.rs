//! Goal: the pages say honestly what is going on, work by keyboard, keep tokens out of the address bar and
//! break no rule of their own content policy.
//! Method: Chromium on a node where nothing, or the synthetic clip, is live; texts as they are shown.

use spillway_tests::browser::Browser;
use spillway_tests::node::{Machine, Node};
use spillway_tests::wait::seconds;

#[test]
fn a_room_that_is_not_live_says_so_and_shows_its_picture_by_itself() {
    let _machine = Machine::busy();
    let node = Node::start();
    let browser = Browser::start();
    let page = browser.open(&format!("{}/watch/demo#token={}", node.http.base(), node.token("demo", "view")));
    page.until("the page waits", seconds(10), "return spillway.state === 'waiting'");
    assert_eq!(page.text("#title"), "Waiting for publisher");
    assert!(page.is_visible("#spinner") && !page.is_visible("#badge"));
    assert!(!page.url().contains("token"), "the token is out of the address bar: {}", page.url());

    let publisher = node.publish("demo", "vp8");
    page.until("the picture came by itself", seconds(10), "return spillway.state === 'live'");
    assert!(page.is_visible("#badge") && !page.is_visible("#spinner"));
    page.until("viewers are counted", seconds(5), "return document.querySelector('#viewers').textContent.startsWith('1 ')");

    // `s` opens and closes the statistics.
    assert!(!page.is_visible("#stats"));
    page.press("s");
    page.until("s opens the statistics", seconds(5), "return document.querySelector('#stats').checkVisibility()");
    page.until("the statistics speak of GCM", seconds(5), "return document.querySelector('#rows').textContent.includes('GCM')");
    page.press("s");
    page.until("s closes them", seconds(5), "return !document.querySelector('#stats').checkVisibility()");

    publisher.stop();
    page.until("the page waits again", seconds(15), "return spillway.state === 'waiting'");
    assert_eq!(page.text("#title"), "Waiting for publisher");
    let complaints = browser.complaints();
    assert!(complaints.iter().all(|line| line.contains("409")), "{complaints:?}");
}

#[test]
fn without_a_good_token_pages_ask_for_one() {
    let _machine = Machine::busy();
    let node = Node::start();
    let browser = Browser::start();
    let base = node.http.base();
    let page = browser.open(&format!("{base}/watch/demo"));
    page.until("the page asks", seconds(10), "return spillway.state === 'denied'");
    assert_eq!(page.text("#title"), "A token is needed");
    assert!(page.is_visible("#token-form"));

    let page = browser.open(&format!("{base}/watch/demo#token={}", node.token("other", "view")));
    page.until("a token of another room is refused", seconds(10), "return spillway.state === 'denied'");
    assert_eq!(page.text("#title"), "Not allowed");

    let page = browser.open(&format!("{base}/publish/demo"));
    page.until("the publish page asks", seconds(10), "return spillway.state === 'denied'");
    assert!(page.is_visible("#token-form"));
}

#[test]
fn somebody_elses_room_is_called_busy() {
    let _machine = Machine::busy();
    let node = Node::start();
    let _publisher = node.publish("demo", "vp8");
    let browser = Browser::start();
    let token = node.token("demo", "publish");
    let page = browser.open(&format!("{}/publish/demo#token={token}&auto=pattern", node.http.base()));
    page.until("the room is busy", seconds(15), "return spillway.state === 'busy'");
    assert_eq!(page.text("#badge"), "Room is busy");
    assert!(!page.url().contains("token"), "{}", page.url());
}

#[test]
fn the_test_pattern_and_the_first_page_work_by_link() {
    let _machine = Machine::busy();
    let node = Node::start();
    let browser = Browser::start();
    let admin = node.token("demo", "admin");
    let home = browser.open(&format!("{}/#token={admin}", node.http.base()));
    home.until("the room is filled in", seconds(10), "return document.querySelector('#room')?.value === 'demo'");
    home.until("the tokens are filled in", seconds(5), "return Boolean(document.querySelector('#publish-token').value && document.querySelector('#view-token').value)");
    assert!(!home.url().contains("token"), "{}", home.url());

    let page = browser.open(&format!("{}/publish/demo?auto=pattern#token={admin}", node.http.base()));
    page.until("the pattern is live", seconds(20), "return spillway.state === 'live'");
    let played = node.play("demo", 3);
    assert!(played["frames"].as_u64() > Some(20) && played["audio_packets"].as_u64() > Some(50), "{played}");
    let complaints = browser.complaints();
    assert!(complaints.is_empty(), "{complaints:?}");
}

#[test]
fn a_browser_without_a_network_interface_is_told_so() {
    let _machine = Machine::busy();
    let node = Node::start();
    let _publisher = node.publish("demo", "vp8");
    let browser = Browser::start();
    let page = browser.open_without_interfaces(&format!("{}/watch/demo#token={}", node.http.base(), node.token("demo", "view")));
    page.until("the page says why", seconds(8), "return document.querySelector('#title').textContent.includes('no network interface')");
    assert_eq!(page.run("return spillway.state"), "connecting", "{}", page.report());
}
