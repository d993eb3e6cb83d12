//! API tokens: made, recognised and revoked.

use super::{Caller, checked_name};
use crate::{Control, ControlError, Result};
use ostler_domain::{ApiToken, Permission, Permissions, TenantId, TokenId, User, UserId};
use ostler_store::{Change, Filter, StoreExt};
use serde_json::json;
use sha2::{Digest, Sha256};
use std::fmt::Write;
use std::time::Duration;

/// A token to make.
#[derive(Debug, Clone, Default)]
pub struct NewToken {
    /// What to call it.
    pub name: String,
    /// What it may do at most; all that the caller may when absent.
    pub permissions: Option<Permissions>,
    /// Time until it expires; never when absent.
    pub expires_in: Option<Duration>,
    /// The user in whose name it acts; the caller's own when absent.
    pub user_id: Option<UserId>,
    /// A service token of the tenant, which belongs to no user.
    pub service: bool,
}

/// The secret of a new token, which nobody can read again.
#[derive(Clone)]
pub struct NewSecret(pub String);

impl std::fmt::Debug for NewSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("NewSecret(…)")
    }
}

const SECRET_PREFIX: &str = "ost_";
const LAST_USE_STEP: Duration = Duration::from_secs(60);

fn hash(secret: &str) -> String {
    Sha256::digest(secret.as_bytes())
        .iter()
        .fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
}

fn new_secret() -> String {
    let bytes: [u8; 32] = rand::random();
    bytes.iter().fold(SECRET_PREFIX.to_owned(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

impl Control {
    /// Who holds this secret. A user's token allows what both it and the user's present roles allow.
    pub async fn authenticate(&self, secret: &str) -> Result<Caller> {
        let refused = || {
            ControlError::Unauthorized(
                "the token is not known, has expired or was revoked, or its user is disabled".into(),
            )
        };
        if !secret.starts_with(SECRET_PREFIX) {
            return Err(refused());
        }
        let token: Option<ApiToken> = self.parts.store.first(Filter::by("hash", hash(secret))).await?;
        let now = self.now();
        let mut token = token.filter(|t| t.is_valid(now)).ok_or_else(refused)?;
        let mut permissions = token.permissions.clone();
        if let Some(id) = token.user_id {
            let user: Option<User> = self.parts.store.get(id).await?;
            let active = user.filter(|u| u.disabled_at.is_none() && u.tenant_id == token.tenant_id);
            active.ok_or_else(refused)?;
            permissions = permissions.and(&self.role_permissions(token.tenant_id, id).await?);
        }
        if token.tenant_id != TenantId::DEFAULT {
            permissions = permissions.within_tenant();
        }
        let caller = Caller {
            tenant_id: token.tenant_id,
            user_id: token.user_id,
            token_id: Some(token.id),
            permissions,
            request_id: None,
        };
        if token
            .last_used_at
            .is_none_or(|last| now.since(last) >= LAST_USE_STEP)
        {
            token.last_used_at = Some(now);
            // Two requests at once may both try; either is right.
            if let Err(error) = self.commit(vec![Change::update(&token)]).await {
                tracing::debug!(%error, token.id = %token.id, "the time of a token's last use was not kept");
            }
        }
        Ok(caller)
    }

    /// Makes a token. Nobody can give more than what they have themselves, and only administrators of the tenant make
    /// tokens of other users, or service tokens when they are users themselves: those would outlive a user.
    pub async fn create_token(&self, caller: &Caller, new: NewToken) -> Result<(ApiToken, NewSecret)> {
        let name = checked_name("token", &new.name)?;
        let user_id = self.owner_of(caller, &new).await?;
        let permissions = match new.permissions {
            None if caller.tenant_id == TenantId::DEFAULT => caller.permissions.clone(),
            None => caller.permissions.within_tenant(),
            Some(wanted) => {
                caller.require_all(&wanted)?;
                wanted
            }
        };
        let secret = new_secret();
        let now = self.now();
        let token = ApiToken {
            id: TokenId::new(),
            tenant_id: caller.tenant_id,
            user_id,
            name,
            prefix: secret.chars().take(SECRET_PREFIX.len() + 6).collect(),
            hash: hash(&secret),
            permissions,
            created_at: now,
            expires_at: new.expires_in.map(|after| now.plus(after)),
            last_used_at: None,
            revoked_at: None,
            version: 0,
        };
        let details = json!({ "name": token.name, "user_id": user_id, "permissions": token.permissions });
        let by = self.acting(caller, "token.create", token.id, details);
        by.commit(vec![Change::insert(&token)]).await?;
        Ok((token, NewSecret(secret)))
    }

    /// Whose the new token will be.
    async fn owner_of(&self, caller: &Caller, new: &NewToken) -> Result<Option<UserId>> {
        match (new.user_id, new.service) {
            (Some(_), true) => Err(ControlError::Invalid(
                "a service token belongs to no user; name a user or ask for a service token, not both".into(),
            )),
            (Some(id), false) if caller.user_id == Some(id) => Ok(Some(id)),
            (Some(id), false) => Ok(Some(self.manageable_user(caller, id).await?.id)),
            (None, service) => {
                let Some(own) = caller.user_id else {
                    return Ok(None);
                };
                let own: Option<User> = self.parts.store.get(own).await?;
                // An administrator of the platform who acts in another tenant is no user there.
                let own = own.filter(|user| user.tenant_id == caller.tenant_id);
                if service || own.is_none() {
                    caller.require(Permission::TenantAdmin)?;
                    return Ok(None);
                }
                Ok(own.map(|user| user.id))
            }
        }
    }

    /// The tokens, newest first: all of the tenant for its administrators, otherwise one's own.
    pub async fn tokens(&self, caller: &Caller) -> Result<Vec<ApiToken>> {
        let filter = Filter::by("tenant_id", caller.tenant_id).order_by_desc("created_at");
        let mut tokens: Vec<ApiToken> = self.parts.store.list(filter).await?;
        if !caller.permissions.allow(Permission::TenantAdmin) {
            tokens.retain(|token| is_own(caller, token));
        }
        Ok(tokens)
    }

    /// Revokes a token: one's own, or as administrator any of the tenant. Repeating it changes nothing.
    pub async fn revoke_token(&self, caller: &Caller, id: TokenId) -> Result<()> {
        crate::conflict::retry_on_conflict!({
            let mut token: ApiToken = self.owned("token", caller.tenant_id, id).await?;
            if !is_own(caller, &token) {
                caller.require(Permission::TenantAdmin)?;
            }
            if token.revoked_at.is_some() {
                return Ok(());
            }
            token.revoked_at = Some(self.now());
            let by = self.acting(caller, "token.revoke", id, json!({ "name": token.name }));
            by.commit(vec![Change::update(&token)]).await
        })
    }
}

fn is_own(caller: &Caller, token: &ApiToken) -> bool {
    caller.token_id == Some(token.id) || (token.user_id.is_some() && token.user_id == caller.user_id)
}
