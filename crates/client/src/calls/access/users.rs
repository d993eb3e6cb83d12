//! Users and roles.

use crate::http::Patience::Usual;
use crate::{Client, ClientError};
use ostler_contracts::{ChangeUser, CreateRole, CreateUser, RoleView, SetRole, UserView};
use ostler_domain::{RoleId, UserId};
use reqwest::Method;

impl Client {
    /// The users, by name.
    pub async fn users(&self) -> Result<Vec<UserView>, ClientError> {
        self.get(self.path(&["users"])).await
    }

    /// One user.
    pub async fn user(&self, id: UserId) -> Result<UserView, ClientError> {
        self.get(self.path(&["users", &id.to_string()])).await
    }

    /// Makes a user.
    pub async fn create_user(&self, new: &CreateUser) -> Result<UserView, ClientError> {
        self.call(Method::POST, &["users"], Some(new), Usual).await
    }

    /// Changes a user.
    pub async fn change_user(&self, id: UserId, change: &ChangeUser) -> Result<UserView, ClientError> {
        let path = ["users", &id.to_string()];
        self.call(Method::PATCH, &path, Some(change), Usual).await
    }

    /// Removes a user with all tokens.
    pub async fn remove_user(&self, id: UserId) -> Result<(), ClientError> {
        self.act(Method::DELETE, &["users", &id.to_string()], Usual).await
    }

    /// Gives a user a role.
    pub async fn assign_role(&self, user: UserId, role: RoleId) -> Result<(), ClientError> {
        let path = ["users", &user.to_string(), "roles", &role.to_string()];
        self.act(Method::PUT, &path, Usual).await
    }

    /// Takes a role from a user.
    pub async fn unassign_role(&self, user: UserId, role: RoleId) -> Result<(), ClientError> {
        let path = ["users", &user.to_string(), "roles", &role.to_string()];
        self.act(Method::DELETE, &path, Usual).await
    }

    /// The roles that can be given, by name.
    pub async fn roles(&self) -> Result<Vec<RoleView>, ClientError> {
        self.get(self.path(&["roles"])).await
    }

    /// Makes a role.
    pub async fn create_role(&self, new: &CreateRole) -> Result<RoleView, ClientError> {
        self.call(Method::POST, &["roles"], Some(new), Usual).await
    }

    /// Changes what a role allows.
    pub async fn set_role(&self, id: RoleId, change: &SetRole) -> Result<RoleView, ClientError> {
        let path = ["roles", &id.to_string()];
        self.call(Method::PUT, &path, Some(change), Usual).await
    }

    /// Removes a role that nobody has.
    pub async fn remove_role(&self, id: RoleId) -> Result<(), ClientError> {
        self.act(Method::DELETE, &["roles", &id.to_string()], Usual).await
    }
}
