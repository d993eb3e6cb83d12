//! What has been published stays: an older guest in an image and a newer server must understand each other.

use std::collections::BTreeSet;

/// One line for each field and method of the protocol file.
fn current() -> Result<BTreeSet<String>, Box<dyn std::error::Error>> {
    let set = protox::compile(["proto/guest.proto"], ["proto"])?;
    let mut lines = BTreeSet::new();
    for file in &set.file {
        for message in &file.message_type {
            for field in &message.field {
                lines.insert(format!(
                    "{}.{} = {} {:?} {:?} {} oneof {:?}",
                    message.name(),
                    field.name(),
                    field.number(),
                    field.label(),
                    field.r#type(),
                    field.type_name(),
                    field.oneof_index,
                ));
            }
        }
        for service in &file.service {
            for method in &service.method {
                lines.insert(format!(
                    "{}.{}({}{}) -> {}{}",
                    service.name(),
                    method.name(),
                    if method.client_streaming() { "stream " } else { "" },
                    method.input_type(),
                    if method.server_streaming() { "stream " } else { "" },
                    method.output_type(),
                ));
            }
        }
    }
    Ok(lines)
}

#[test]
fn nothing_published_has_changed() {
    let current = current().unwrap();
    let published: BTreeSet<String> = include_str!("published.txt").lines().map(str::to_owned).collect();
    let gone: Vec<_> = published.difference(&current).collect();
    assert!(
        gone.is_empty(),
        "published and now changed or removed, which breaks guests of older images: {gone:#?}"
    );
    let new: Vec<_> = current.difference(&published).collect();
    assert!(
        new.is_empty(),
        "not yet frozen; append these lines to tests/published.txt: {new:#?}"
    );
    assert!(current.len() > 50, "the protocol file was not read");
}
