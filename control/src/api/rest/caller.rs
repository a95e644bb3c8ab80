//! Who asks: a key of the API, a token of the node, or a room's admin token; and whether he may.

use super::table::{Access, Row};
use crate::api::problem::Problem;
use crate::auth::{self, AuthError, KeyText, Role};
use crate::service::{KeyRole, Service};
use axum::http::{HeaderMap, header};

/// What somebody may see.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Scope {
    Nothing,
    Room(String),
    Node,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Caller {
    pub scope: Scope,
    may_write: bool,
    /// For messages: what it is that does not allow this.
    what: &'static str,
    /// Names him among all who ask.
    pub id: String,
    pub account: String,
    /// Unix seconds: nobody gives away more time than he has.
    pub expiry: u64,
}

impl Caller {
    pub fn nobody() -> Caller {
        let (id, account) = (String::new(), String::new());
        Caller { scope: Scope::Nothing, may_write: false, what: "nothing", id, account, expiry: 0 }
    }

    pub async fn of(service: &Service, headers: &HeaderMap, query: Option<&str>) -> Result<Caller, Problem> {
        let authorization = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let text = auth::token_of(authorization, query).ok_or(AuthError::Missing)?;
        if let Some(key) = KeyText::parse(text) {
            let key = service.key(&key).await?;
            let (scope, may_write, what) = match KeyRole::from_name(&key.role) {
                Some(KeyRole::Admin) => (Scope::Node, true, "admin"),
                Some(KeyRole::Read) => (Scope::Node, false, "read"),
                _ => (Scope::Nothing, false, "stream"),
            };
            return Ok(Caller { scope, may_write, what, id: key.id, account: key.account, expiry: u64::MAX });
        }
        let claims = service.token(text, None).await?;
        let (scope, may_write) = match claims.role {
            Role::Node => (Scope::Node, true),
            Role::Admin => (Scope::Room(claims.room.clone()), true),
            // Also a foreign one, which may be of no room.
            Role::Publish | Role::View => (Scope::Nothing, false),
        };
        let id = format!("{}/{}/{}", claims.acct, claims.sub, claims.room);
        Ok(Caller { scope, may_write, what: claims.role.name(), id, account: claims.acct, expiry: claims.exp })
    }

    /// Whether he may have this row answered; `room` is the one in its path.
    pub fn require(&self, row: &Row, room: Option<&str>) -> Result<(), Problem> {
        let role = |needed| Err(AuthError::WrongRole(self.what, needed).into());
        match (row.access, &self.scope) {
            (Access::Anyone, _) => return Ok(()),
            (_, Scope::Nothing) => return role("an API key, or a token of the role node or admin"),
            (Access::Node, Scope::Room(_)) => return role("an API key, or a token of the role node"),
            (Access::Room, Scope::Room(own)) => self.require_room_name(own, room)?,
            // Lists and single things: the handler shows those of the room alone.
            (Access::Either, Scope::Room(_)) | (_, Scope::Node) => {}
        }
        if !self.may_write && row.writes() {
            return role("an API key of the role admin");
        }
        Ok(())
    }

    fn require_room_name(&self, own: &str, asked: Option<&str>) -> Result<(), Problem> {
        match asked {
            Some(asked) if asked != own => {
                Err(AuthError::WrongRoom { token: own.to_owned(), asked: asked.to_owned() }.into())
            }
            _ => Ok(()),
        }
    }

    /// Whether he may see what is in this room.
    pub fn sees(&self, room: &str) -> bool {
        match &self.scope {
            Scope::Node => true,
            Scope::Room(own) => own == room,
            Scope::Nothing => false,
        }
    }
}
