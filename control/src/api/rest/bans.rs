//! Who may not come to a room for a while, and how he may again.

use super::bodies::Ban;
use super::page::{Page, Wanted};
use super::{Answer, Call, Reply};
use crate::api::problem::Problem;
use crate::ids::{self, rfc3339};
use crate::policy::Refusal;

/// In the order of their names, which stand for room and `sub`: a `sub` may have characters that no path has.
pub async fn list(call: Call) -> Answer {
    let Wanted { after, count } = Wanted::of(&call)?;
    let room = call.part("room");
    let found = call.service.store().bans(room, crate::auth::unix_now() * 1_000).await.map_err(Refusal::from)?;
    let bans = found.into_iter().map(|(sub, until_ms)| Ban {
        id: ids::ban(room, &sub),
        room: room.to_owned(),
        sub,
        until: rfc3339(until_ms),
    });
    let mut bans: Vec<Ban> = bans.filter(|ban| ban.id > after).collect();
    bans.sort_unstable_by(|left, right| left.id.cmp(&right.id));
    bans.truncate(count + 1);
    Ok(Reply::json(200, &Page::new(bans, count, |ban: &Ban| ban.id.clone())))
}

pub async fn lift(call: Call) -> Answer {
    let (room, id) = (call.part("room"), call.part("ban"));
    let store = call.service.store();
    let found = store.bans(room, crate::auth::unix_now() * 1_000).await.map_err(Refusal::from)?;
    let sub = found.into_iter().map(|(sub, _)| sub).find(|sub| ids::ban(room, sub) == id).ok_or_else(|| Problem::missing("ban"))?;
    match store.lift_ban(room, &sub).await.map_err(Refusal::from)? {
        true => Ok(Reply::nothing()),
        false => Err(Problem::missing("ban")),
    }
}
