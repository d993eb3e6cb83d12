//! The docker driver.
