//! Who asks, and API tokens.

use crate::{Control, ControlError, Result};
use ostler_domain::{ApiToken, Permission, Permissions, Tenant, TenantId, TokenId};
use ostler_store::{Change, Filter, StoreError, StoreExt};
use sha2::{Digest, Sha256};
use std::fmt::Write;
use std::time::Duration;

/// Who asks: the tenant in whose name, and what is allowed.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Tenant.
    pub tenant_id: TenantId,
    /// The token; none in development mode.
    pub token_id: Option<TokenId>,
    /// What is allowed.
    pub permissions: Permissions,
}

/// The secret of a new token, which nobody can read again.
#[derive(Clone)]
pub struct NewSecret(pub String);

impl std::fmt::Debug for NewSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("NewSecret(…)")
    }
}

impl Caller {
    /// A local administrator, as development mode gives it.
    pub fn administrator() -> Self {
        Self {
            tenant_id: TenantId::DEFAULT,
            token_id: None,
            permissions: Permissions::all(),
        }
    }

    /// Fails without the permission.
    pub fn require(&self, permission: Permission) -> Result<()> {
        if self.permissions.allow(permission) {
            Ok(())
        } else {
            Err(ControlError::Forbidden(permission))
        }
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
    /// Makes the default tenant if it is missing; to be called at start.
    pub async fn ensure_default_tenant(&self) -> Result<()> {
        let tenant = Tenant {
            id: TenantId::DEFAULT,
            name: "default".into(),
            created_at: self.now(),
        };
        match self.commit(vec![Change::insert(&tenant)]).await {
            Err(ControlError::Store(StoreError::Duplicate { .. })) => Ok(()),
            other => other,
        }
    }

    /// Who holds this secret.
    pub async fn authenticate(&self, secret: &str) -> Result<Caller> {
        let refused =
            || ControlError::Unauthorized("the token is not known, has expired or was revoked".into());
        if !secret.starts_with(SECRET_PREFIX) {
            return Err(refused());
        }
        let token: Option<ApiToken> = self.parts.store.first(Filter::by("hash", hash(secret))).await?;
        let now = self.now();
        let mut token = token.filter(|t| t.is_valid(now)).ok_or_else(refused)?;
        let caller = Caller {
            tenant_id: token.tenant_id,
            token_id: Some(token.id),
            permissions: token.permissions.clone(),
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

    /// Makes a token. Nobody can give more than what they have themselves.
    pub async fn create_token(
        &self,
        caller: &Caller,
        name: &str,
        permissions: Option<Vec<Permission>>,
        expires_in: Option<Duration>,
    ) -> Result<(ApiToken, NewSecret)> {
        if name.trim().is_empty() || name.chars().count() > 100 {
            return Err(ControlError::Invalid(
                "a token needs a name of 1 to 100 characters".into(),
            ));
        }
        let permissions = match permissions {
            None => caller.permissions.clone(),
            Some(wanted) => {
                for permission in &wanted {
                    caller.require(*permission)?;
                }
                wanted.into_iter().collect()
            }
        };
        let secret = new_secret();
        let now = self.now();
        let token = ApiToken {
            id: TokenId::new(),
            tenant_id: caller.tenant_id,
            name: name.trim().to_owned(),
            prefix: secret.chars().take(SECRET_PREFIX.len() + 6).collect(),
            hash: hash(&secret),
            permissions,
            created_at: now,
            expires_at: expires_in.map(|after| now.plus(after)),
            last_used_at: None,
            revoked_at: None,
            version: 0,
        };
        self.commit(vec![Change::insert(&token)]).await?;
        Ok((token, NewSecret(secret)))
    }

    /// The tenant's tokens, newest first.
    pub async fn tokens(&self, caller: &Caller) -> Result<Vec<ApiToken>> {
        let filter = Filter::by("tenant_id", caller.tenant_id).order_by_desc("created_at");
        Ok(self.parts.store.list(filter).await?)
    }

    /// Revokes a token: one's own, or with `admin:*` any of the tenant. Repeating it changes nothing.
    pub async fn revoke_token(&self, caller: &Caller, id: TokenId) -> Result<()> {
        let mut token: ApiToken = self.owned("token", caller.tenant_id, id).await?;
        if caller.token_id != Some(id) {
            caller.require(Permission::Admin)?;
        }
        if token.revoked_at.is_none() {
            token.revoked_at = Some(self.now());
            self.commit(vec![Change::update(&token)]).await?;
        }
        Ok(())
    }
}
