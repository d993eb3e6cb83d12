//! Stored credentials: sealed with AES-256-GCM under a key that the database does not hold.
//!
//! A sealed value is bound to its tenant and its own id, so that a row copied to another tenant does not open. Which key is
//! the present one is told by the database, in the row with a sealed known text: a server opens it at its start, so that a
//! wrong key is seen then and not when a credential is needed. Every write of a credential guards that row, so that a
//! rotation leaves nothing behind under the old key.
//!
//! Values leave only by [`Control::credential`], for use within the server.

mod ring;

use crate::conflict::retry_on_conflict;
use crate::{Caller, Control, ControlError, Result};
use ostler_domain::{Credential, CredentialId, CredentialKind, Permission, TenantId};
use ostler_gateway::Secret;
use ostler_store::{Change, CredentialCheck, Filter, Op, StoreError, StoreExt, as_owner};
use ring::{Key, Ring, Sealed, Source, VARIABLE};
use serde_json::json;
use std::path::Path;
use std::sync::Arc;
use tokio::sync::RwLock;

/// Longest value; a large private key has a few thousand bytes.
const MAX_VALUE: usize = 8 * 1024;
/// Where the known text is sealed for, and the text.
const CHECK: &str = "ostler credential check";

/// The keys of this server; none before [`Control::open_credentials`].
pub(crate) type Keys = Arc<RwLock<Option<Ring>>>;

/// What came of a rotation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rotation {
    /// The id of the key that is used from now on.
    pub key_id: String,
    /// How many credentials were sealed again.
    pub credentials: usize,
}

impl Control {
    /// Gets the keys ready, to be called once at start: from the value of `OSTLER_CREDENTIAL_KEY`, otherwise from the file,
    /// which is made at the first start. Fails when what is stored was sealed with a key that is not there.
    pub async fn open_credentials(&self, variable: Option<&str>, file: &Path) -> Result<()> {
        let mut ring = Ring::read(variable, file)?;
        let check = match self.credential_check().await? {
            Some(check) => check,
            None => self.first_check(&mut ring).await?,
        };
        let Some(key) = ring.get(&check.key_id).copied() else {
            return Err(wrong_key(&ring, &check));
        };
        if key.open(CHECK, &check.ciphertext, &check.nonce).is_none() {
            return Err(wrong_key(&ring, &check));
        }
        // Left by a rotation that was cut off: before its commit a key that nothing is sealed with, after it an old one.
        if matches!(ring.source, Source::File(_)) && ring.keys.len() > 1 {
            ring.keep(vec![key])?;
        }
        *self.keys.write().await = Some(ring);
        Ok(())
    }

    async fn first_check(&self, ring: &mut Ring) -> Result<CredentialCheck> {
        if ring.keys.is_empty() {
            ring.keep(vec![Key::new()])?;
        }
        let check = sealed_check(&ring.keys[0], 0)?;
        match self.commit(vec![Change::insert(&check)]).await {
            Ok(()) => Ok(check),
            // Another server started at the same moment.
            Err(ControlError::Store(StoreError::Duplicate { .. })) => {
                let known = self.credential_check().await?;
                Ok(known.unwrap_or(check))
            }
            Err(error) => Err(error),
        }
    }

    async fn credential_check(&self) -> Result<Option<CredentialCheck>> {
        // The platform's, which no tenant sees.
        Ok(as_owner(self.parts.store.get(CredentialCheck::ID)).await?)
    }

    /// The row that names the present key, and that key.
    async fn present_key(&self) -> Result<(CredentialCheck, Key)> {
        let keys = self.keys.read().await;
        let ring = keys.as_ref().ok_or_else(no_keys)?;
        let check = self.credential_check().await?.ok_or_else(no_keys)?;
        match ring.get(&check.key_id) {
            Some(key) => Ok((check, *key)),
            None => Err(wrong_key(ring, &check)),
        }
    }

    /// The value of a credential, for use within the server. It must go into no sandbox, log, argument or URL.
    pub async fn credential(&self, tenant: TenantId, name: &str) -> Result<Secret> {
        let missing = || ControlError::NotFound {
            what: "credential",
            id: name.to_owned(),
        };
        // Read before the keys are: a rotation keeps the old key until its commit is done.
        let keys = self.keys.read().await;
        let ring = keys.as_ref().ok_or_else(no_keys)?;
        let credential = self.credential_named(tenant, name).await?.ok_or_else(missing)?;
        let key = ring.get(&credential.key_id).ok_or_else(|| {
            ControlError::Unavailable(format!(
                "the credential {name} is sealed with the key {}, which this server does not have; the key was rotated \
                 elsewhere: give this server the new one in {VARIABLE} and restart it",
                credential.key_id
            ))
        })?;
        key.open(&place(&credential), &credential.ciphertext, &credential.nonce)
            .ok_or_else(|| {
                ControlError::Unprocessable(format!(
                    "the stored credential {name} is damaged; set it again with `ostler credential set`"
                ))
            })
    }

    /// The tenant's credentials, without their values, by name.
    pub async fn credentials(&self, caller: &Caller) -> Result<Vec<Credential>> {
        caller.require(Permission::TenantAdmin)?;
        let own = Filter::by("tenant_id", caller.tenant_id).order_by("name");
        Ok(self.parts.store.list(own).await?)
    }

    /// Stores a credential under a name, in the place of one that was there.
    pub async fn set_credential(
        &self,
        caller: &Caller,
        name: &str,
        kind: CredentialKind,
        value: &Secret,
    ) -> Result<Credential> {
        caller.require(Permission::TenantAdmin)?;
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if name.is_empty() || name.len() > 100 || !name.chars().all(plain) {
            return Err(ControlError::Invalid(
                "a credential's name is 1 to 100 letters, digits, dots, hyphens and underscores".into(),
            ));
        }
        if value.expose().is_empty() || value.expose().len() > MAX_VALUE {
            return Err(ControlError::Invalid(format!(
                "a credential's value must have 1 to {MAX_VALUE} bytes"
            )));
        }
        retry_on_conflict!({
            let (check, key) = self.present_key().await?;
            let known = self.credential_named(caller.tenant_id, name).await?;
            let now = self.now();
            let mut credential = known.clone().unwrap_or_else(|| Credential {
                id: CredentialId::new(),
                tenant_id: caller.tenant_id,
                kind,
                name: name.to_owned(),
                ciphertext: String::new(),
                nonce: String::new(),
                key_id: String::new(),
                created_at: now,
                updated_at: now,
                version: 0,
            });
            (credential.kind, credential.updated_at) = (kind, now);
            let sealed = key.seal(&place(&credential), value.expose())?;
            put(&mut credential, sealed);
            let details = json!({ "name": name, "kind": kind, "replaced": known.is_some() });
            let by = self.acting(caller, "credential.set", credential.id, details);
            let change = match known {
                Some(_) => Change::update(&credential),
                None => Change::insert(&credential),
            };
            // The update of the check is a guard: a rotation at the same moment comes before or after, not in between. It is
            // the platform's row, which no tenant can change.
            match as_owner(by.commit(vec![Change::update(&check), change])).await {
                // Two made it at once.
                Err(ControlError::Store(StoreError::Duplicate { .. })) => Err(StoreError::Conflict {
                    table: "credentials",
                    key: name.to_owned(),
                }
                .into()),
                other => other.map(|()| credential),
            }
        })
    }

    /// Removes a credential.
    pub async fn remove_credential(&self, caller: &Caller, name: &str) -> Result<()> {
        caller.require(Permission::TenantAdmin)?;
        let found = self.credential_named(caller.tenant_id, name).await?;
        let credential = found.ok_or_else(|| ControlError::NotFound {
            what: "credential",
            id: name.to_owned(),
        })?;
        let details = json!({ "name": name, "kind": credential.kind });
        let by = self.acting(caller, "credential.remove", credential.id, details);
        by.commit(vec![Change::delete(&credential)]).await
    }

    /// Seals all credentials of all tenants with a new key, all or none: with one that is made now where the keys are in
    /// a file, with the first of the environment's otherwise.
    pub async fn rotate_credential_key(&self, caller: &Caller) -> Result<Rotation> {
        caller.require(Permission::Admin)?;
        let mut keys = self.keys.write().await;
        let ring = keys.as_mut().ok_or_else(no_keys)?;
        let present = self.credential_check().await?.ok_or_else(no_keys)?;
        let Some(old) = ring.get(&present.key_id).copied() else {
            return Err(wrong_key(ring, &present));
        };
        let next = match ring.source {
            Source::File(_) => Key::new(),
            Source::Environment => ring.keys[0],
        };
        if next == old {
            return Err(ControlError::Conflict(format!(
                "the first key of {VARIABLE} is the present one; put a new one before it, separated by a comma, restart the \
                 server (with several, all of them), and rotate again"
            )));
        }
        if let Source::File(_) = ring.source {
            ring.keep(vec![next, old])?;
        }
        let credentials = self.seal_again(caller, &old, &next).await?;
        if let Source::File(_) = ring.source {
            ring.keep(vec![next])?;
        }
        Ok(Rotation {
            key_id: next.id(),
            credentials,
        })
    }

    async fn seal_again(&self, caller: &Caller, old: &Key, next: &Key) -> Result<usize> {
        retry_on_conflict!({
            let check = self.credential_check().await?.ok_or_else(no_keys)?;
            if check.key_id != old.id() {
                return Err(ControlError::Conflict(
                    "another server has rotated the key at the same time".into(),
                ));
            }
            let all: Vec<Credential> = self.parts.store.list(Filter::all()).await?;
            let count = all.len();
            let mut changes = vec![Change::update(&sealed_check(next, check.version)?)];
            for mut credential in all {
                let value = old.open(&place(&credential), &credential.ciphertext, &credential.nonce);
                let value = value.ok_or_else(|| {
                    ControlError::Unprocessable(format!(
                        "the credential {} of the tenant {} is damaged and cannot be sealed again; set or remove it first",
                        credential.name, credential.tenant_id
                    ))
                })?;
                let sealed = next.seal(&place(&credential), value.expose())?;
                put(&mut credential, sealed);
                changes.push(Change::update(&credential));
            }
            let details = json!({ "from": old.id(), "credentials": count });
            let by = self.acting(caller, "credential_key.rotate", next.id(), details);
            by.commit(changes).await?;
            Ok(count)
        })
    }

    async fn credential_named(&self, tenant: TenantId, name: &str) -> Result<Option<Credential>> {
        let filter = Filter::by("tenant_id", tenant).and("name", Op::Eq, name.to_owned());
        Ok(self.parts.store.first(filter).await?)
    }
}

fn place(credential: &Credential) -> String {
    format!("{}/{}", credential.tenant_id, credential.id)
}

fn put(credential: &mut Credential, sealed: Sealed) {
    credential.ciphertext = sealed.ciphertext;
    credential.nonce = sealed.nonce;
    credential.key_id = sealed.key_id;
}

fn sealed_check(key: &Key, version: i64) -> Result<CredentialCheck> {
    let sealed = key.seal(CHECK, CHECK)?;
    Ok(CredentialCheck {
        id: CredentialCheck::ID,
        key_id: sealed.key_id,
        ciphertext: sealed.ciphertext,
        nonce: sealed.nonce,
        version,
    })
}

fn no_keys() -> ControlError {
    ControlError::Unavailable("this server has no key for credentials".into())
}

fn wrong_key(ring: &Ring, check: &CredentialCheck) -> ControlError {
    let held: Vec<String> = ring.keys.iter().map(Key::id).collect();
    let (place, held) = match (&ring.source, held.as_slice()) {
        (Source::File(path), []) => (path.display().to_string(), "holds none".to_owned()),
        (Source::File(path), held) => (path.display().to_string(), format!("holds {}", held.join(", "))),
        (Source::Environment, held) => (VARIABLE.to_owned(), format!("holds {}", held.join(", "))),
    };
    ControlError::Unavailable(format!(
        "the stored credentials are sealed with the key {}, and {place} {held}; put the right key there, from a backup or \
         from another server of this database. If it is lost, so are they: empty the tables credentials and \
         credential_checks to begin anew",
        check.key_id
    ))
}
