//! What is noted of a POST while it is answered, so that one that comes to nothing can be told (`attempts`). The
//! request's task carries it; handlers need not know.

use super::problem::Told;
use crate::attempts::{Draft, masked};
use crate::auth::Claims;
use crate::logging::{self, Level};
use crate::policy::ResourceId;
use crate::service::{Service, now_ms};
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::Response;
use std::cell::RefCell;
use std::sync::Arc;

#[derive(Default)]
struct Noted {
    draft: Draft,
    granted: Option<ResourceId>,
}

tokio::task_local! {
    static NOTED: RefCell<Noted>;
}

/// Outside of a watched request nothing is noted.
fn note(change: impl FnOnce(&mut Noted)) {
    let _ = NOTED.try_with(|noted| change(&mut noted.borrow_mut()));
}

pub fn note_claims(claims: &Claims) {
    note(|noted| {
        noted.draft.sub.clone_from(&claims.sub);
        noted.draft.room.clone_from(&claims.room);
    });
}

pub fn note_offer(text: &str) {
    note(|noted| noted.draft.offer = Some(masked(text)));
}

pub fn note_answer(resource: ResourceId, text: &str) {
    note(|noted| {
        noted.granted = Some(resource);
        noted.draft.answer = Some(masked(text));
    });
}

/// Around WHIP and WHEP.
pub async fn watch(State(service): State<Arc<Service>>, request: Request, next: Next) -> Response {
    if request.method() != Method::POST {
        return next.run(request).await;
    }
    let mut parts = request.uri().path().split('/').skip(1);
    let protocol = if parts.next() == Some("whip") { "whip" } else { "whep" };
    let room = parts.next().filter(|room| crate::auth::is_room_name(room)).unwrap_or_default().to_owned();
    NOTED
        .scope(RefCell::new(Noted { draft: Draft { protocol, room, ..Draft::default() }, granted: None }), async move {
            let response = next.run(request).await;
            let Noted { draft, granted } = NOTED.try_with(|noted| noted.take()).unwrap_or_default();
            match (response.extensions().get::<Told>(), granted) {
                (Some(told), _) => {
                    // Of strangers the reason alone: a thousand names are one line, which is folded.
                    let room = if draft.sub.is_empty() { "" } else { &draft.room };
                    let facts = [("room", room), ("sub", &draft.sub), ("request_id", &told.request_id)];
                    logging::tell(Level::Info, &format!("{protocol}: refused, {}", told.code), &facts);
                    service.attempts.failed(draft, told.code, &told.detail, now_ms());
                }
                (None, Some(resource)) if response.status() == StatusCode::CREATED => service.attempts.granted(resource, draft),
                _ => {}
            }
            response
        })
        .await
}
