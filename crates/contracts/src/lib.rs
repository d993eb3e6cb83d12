//! What crosses a boundary: HTTP bodies with their schemas.
