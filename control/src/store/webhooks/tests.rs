//! Goal: deliveries are bounded, come in order, and end as they should. Method: a store in a directory of its own.

use super::*;
use crate::event_log::EventLog;
use std::path::PathBuf;
use std::sync::Arc;

struct Scratch(PathBuf);
impl Scratch {
    fn new(name: &str) -> Scratch {
        let path = std::env::temp_dir().join(format!("spillway-webhooks-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Scratch(path)
    }
}
impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn untold() -> Drafts {
    Drafts { log: Arc::new(EventLog::default()), events: Vec::new() }
}

pub fn hook(id: &str) -> WebhookRow {
    WebhookRow {
        id: id.to_owned(),
        url: "http://example.org/".to_owned(),
        types: vec!["stream.started".to_owned(), "stream.ended".to_owned()],
        room: Some("demo".to_owned()),
        enabled: true,
        reason: None,
        secret: vec![1, 2, 3],
        former_secret: None,
        former_until_ms: 0,
        failing_since_ms: None,
        created_ms: 5,
        version: 1,
    }
}

fn new(webhook: &str, number: usize) -> NewDelivery {
    let (kind, body) = ("stream.started".to_owned(), "{}".to_owned());
    NewDelivery { id: format!("dl_{number:08}"), event: format!("ev_{number}"), webhook: webhook.to_owned(), kind, body, now_ms: 100, until_ms: 1_000 }
}

fn done(id: &str, error: Option<&str>, due_ms: Option<u64>) -> Delivered {
    let (id, webhook) = (id.to_owned(), "wh_a".to_owned());
    Delivered { id, webhook, at_ms: 200, http_status: None, error: error.map(str::to_owned), due_ms, disable: None }
}

#[tokio::test]
async fn a_delivery_waits_for_its_time_and_ends_taken_or_dead() {
    let data = Scratch::new("life");
    let store = Store::open(&data.0).unwrap();
    assert!(store.create_webhook(hook("wh_a"), None).await.unwrap());
    assert_eq!(store.webhook("wh_a").await.unwrap(), Some(hook("wh_a")));
    assert_eq!(store.queue_deliveries(vec![new("wh_a", 1), new("wh_a", 2), new("wh_gone", 3)], Vec::new()).await.unwrap(), 0);
    assert_eq!(store.due_deliveries("wh_a", 99, 4).await.unwrap(), (vec![], Some(1)));
    let (due, later) = store.due_deliveries("wh_a", 100, 4).await.unwrap();
    assert_eq!((due.iter().map(|row| row.id.as_str()).collect::<Vec<_>>(), later), (vec!["dl_00000001", "dl_00000002"], None));
    let failed = [done("dl_00000001", Some("no"), Some(700)), done("dl_00000002", Some("no"), None)];
    assert!(store.finish_deliveries(failed.to_vec(), untold()).await.unwrap().is_empty());
    assert_eq!(store.webhook("wh_a").await.unwrap().unwrap().failing_since_ms, Some(200));
    assert_eq!(store.due_deliveries("wh_a", 600, 4).await.unwrap(), (vec![], Some(100)));
    assert_eq!(store.queued_deliveries().await.unwrap(), 1);
    // The next control finds it as it was.
    drop(store);
    let store = Store::open(&data.0).unwrap();
    assert_eq!(store.due_deliveries("wh_a", 700, 4).await.unwrap().0[0].attempts, 1);
    store.finish_deliveries(vec![done("dl_00000001", None, None)], untold()).await.unwrap();
    assert_eq!(store.webhook("wh_a").await.unwrap().unwrap().failing_since_ms, None);
    let of = async |status| store.deliveries_before("wh_a", "", status, 9).await.unwrap();
    assert_eq!(of(Some("dead")).await[0].id, "dl_00000002");
    assert_eq!(of(None).await.len(), 2);
    assert_eq!(store.deliveries_before("wh_a", "dl_00000002", None, 9).await.unwrap()[0].id, "dl_00000001");
    let again = store.retry_delivery("wh_a", "dl_00000002", 800, 2_000).await.unwrap().unwrap();
    assert_eq!((again.status.as_str(), again.attempts, again.due_ms), ("queued", 0, 800));
    assert_eq!(store.retry_delivery("wh_b", "dl_00000002", 800, 2_000).await.unwrap(), None);
    let gone = Delivered { disable: Some("gone".to_owned()), ..done("dl_00000002", Some("410"), None) };
    assert_eq!(store.finish_deliveries(vec![gone.clone()], untold()).await.unwrap(), ["wh_a"]);
    assert!(store.finish_deliveries(vec![gone], untold()).await.unwrap().is_empty(), "it is told once");
    let row = store.webhook("wh_a").await.unwrap().unwrap();
    assert_eq!((row.enabled, row.reason.as_deref()), (false, Some("gone")));
    let change = WebhookChange { enabled: Some(true), ..WebhookChange::default() };
    let Changed::Done(row) = store.change_webhook("wh_a", None, change).await.unwrap() else { panic!() };
    assert_eq!((row.enabled, row.reason, row.failing_since_ms), (true, None, None));
    assert!(store.delete_webhook("wh_a").await.unwrap());
    assert!(store.delivery("wh_a", "dl_00000001").await.unwrap().is_none(), "its deliveries go with it");
}

#[tokio::test]
async fn what_is_finished_makes_room_and_what_waits_does_not() {
    let data = Scratch::new("room");
    let store = Store::open(&data.0).unwrap();
    store.create_webhook(hook("wh_a"), None).await.unwrap();
    let all: Vec<NewDelivery> = (0..DELIVERIES_PER_WEBHOOK_MAX).map(|number| new("wh_a", number)).collect();
    assert_eq!(store.queue_deliveries(all, Vec::new()).await.unwrap(), 0);
    store.finish_deliveries(vec![done("dl_00000003", None, None), done("dl_00000004", Some("no"), None)], untold()).await.unwrap();
    let more = (0..5).map(|number| new("wh_a", 90_000 + number)).collect();
    assert_eq!(store.queue_deliveries(more, Vec::new()).await.unwrap(), 3);
    assert!(store.delivery("wh_a", "dl_00000003").await.unwrap().is_none());
    assert!(store.delivery("wh_a", "dl_00000002").await.unwrap().is_some());
    for number in 1..WEBHOOKS_MAX {
        assert!(store.create_webhook(hook(&format!("wh_{number}")), None).await.unwrap());
    }
    assert!(!store.create_webhook(hook("wh_x"), None).await.unwrap());
}
