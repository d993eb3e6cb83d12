//! In whose name the store is used.
//!
//! Reconcilers and the executor work for everybody: they use the store as the owner of its tables, and so does whatever
//! says nothing. A request says whose it is, once, and from then on a backend with row-level security shows and changes
//! nothing but that tenant's rows, whatever the use case forgets to ask. It is a task-local and not a parameter, because a
//! parameter can be forgotten and a use case that reconcilers share would have to carry it along.
//!
//! A task that a request spawns works as owner again: what goes on without the request is the platform's work.

use ostler_domain::TenantId;
use std::future::Future;
use std::sync::{Arc, OnceLock};

/// Whose rows can be seen and changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// All.
    Owner,
    /// Those of a tenant.
    Tenant(TenantId),
    /// None that belong to a tenant: a request of which it is not known yet whose it is.
    Nobody,
}

tokio::task_local! {
    static SCOPE: RequestScope;
}

impl Scope {
    /// That of the present task.
    pub fn current() -> Self {
        let set = SCOPE.try_with(|scope| scope.0.get().copied().unwrap_or(Self::Nobody));
        set.unwrap_or(Self::Owner)
    }
}

/// The scope of a request, and of the stream that answers it: nobody's until [`RequestScope::identify`].
#[derive(Debug, Clone, Default)]
pub struct RequestScope(Arc<OnceLock<Scope>>);

impl RequestScope {
    /// That of a request of which nothing is known yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Says whose the present request is. Only the first word counts. Outside of a request it changes nothing.
    pub fn identify(scope: Scope) {
        // Set already: the first word stays.
        let _ = SCOPE.try_with(|of_request| of_request.0.set(scope));
    }

    /// A future in this scope.
    pub async fn enter<F: Future>(self, future: F) -> F::Output {
        SCOPE.scope(self, future).await
    }

    /// A poll in this scope.
    pub fn enter_sync<T>(&self, poll: impl FnOnce() -> T) -> T {
        SCOPE.sync_scope(self.clone(), poll)
    }
}

/// Uses the store for a tenant.
pub async fn as_tenant<F: Future>(tenant: TenantId, future: F) -> F::Output {
    RequestScope(Arc::new(Scope::Tenant(tenant).into()))
        .enter(future)
        .await
}

/// Uses the store as the owner of its tables: for what a request must know of others, such as how full a pool is. Each use
/// says why.
pub async fn as_owner<F: Future>(future: F) -> F::Output {
    RequestScope(Arc::new(Scope::Owner.into())).enter(future).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_request_is_nobodys_until_it_says_whose_it_is() {
        assert_eq!(Scope::current(), Scope::Owner);
        RequestScope::identify(Scope::Nobody);
        assert_eq!(Scope::current(), Scope::Owner, "there is no request");
        let tenant = Scope::Tenant(TenantId::new());
        let request = RequestScope::new();
        let stream = request.clone();
        let seen = request.enter(async {
            let before = Scope::current();
            RequestScope::identify(tenant);
            RequestScope::identify(Scope::Owner);
            let inside = as_owner(async { Scope::current() }).await;
            let spawned = tokio::spawn(async { Scope::current() }).await.unwrap();
            (before, Scope::current(), inside, spawned)
        });
        let expected = (Scope::Nobody, tenant, Scope::Owner, Scope::Owner);
        assert_eq!(seen.await, expected);
        assert_eq!(stream.enter_sync(Scope::current), tenant);
        let Scope::Tenant(id) = tenant else { unreachable!() };
        assert_eq!(as_tenant(id, async { Scope::current() }).await, tenant);
        assert_eq!(Scope::current(), Scope::Owner);
    }
}
