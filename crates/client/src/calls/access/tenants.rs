//! Tenants and departments.

use crate::http::Patience::Usual;
use crate::{Client, ClientError};
use ostler_contracts::{DepartmentView, Named, TenantView};
use ostler_domain::{DepartmentId, TenantId};
use reqwest::Method;

fn named(name: &str) -> Named {
    Named {
        name: name.to_owned(),
    }
}

impl Client {
    /// All tenants, by name.
    pub async fn tenants(&self) -> Result<Vec<TenantView>, ClientError> {
        self.get(self.path(&["tenants"])).await
    }

    /// One tenant.
    pub async fn tenant(&self, id: TenantId) -> Result<TenantView, ClientError> {
        self.get(self.path(&["tenants", &id.to_string()])).await
    }

    /// Makes a tenant.
    pub async fn create_tenant(&self, name: &str) -> Result<TenantView, ClientError> {
        self.call(Method::POST, &["tenants"], Some(&named(name)), Usual)
            .await
    }

    /// Gives a tenant another name.
    pub async fn rename_tenant(&self, id: TenantId, name: &str) -> Result<TenantView, ClientError> {
        let path = ["tenants", &id.to_string()];
        self.call(Method::PATCH, &path, Some(&named(name)), Usual).await
    }

    /// Removes a tenant.
    pub async fn remove_tenant(&self, id: TenantId) -> Result<(), ClientError> {
        self.act(Method::DELETE, &["tenants", &id.to_string()], Usual)
            .await
    }

    /// The departments, by name.
    pub async fn departments(&self) -> Result<Vec<DepartmentView>, ClientError> {
        self.get(self.path(&["departments"])).await
    }

    /// Makes a department.
    pub async fn create_department(&self, name: &str) -> Result<DepartmentView, ClientError> {
        self.call(Method::POST, &["departments"], Some(&named(name)), Usual)
            .await
    }

    /// Gives a department another name.
    pub async fn rename_department(
        &self,
        id: DepartmentId,
        name: &str,
    ) -> Result<DepartmentView, ClientError> {
        let path = ["departments", &id.to_string()];
        self.call(Method::PATCH, &path, Some(&named(name)), Usual).await
    }

    /// Removes a department.
    pub async fn remove_department(&self, id: DepartmentId) -> Result<(), ClientError> {
        self.act(Method::DELETE, &["departments", &id.to_string()], Usual)
            .await
    }
}
