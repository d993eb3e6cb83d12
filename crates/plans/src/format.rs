//! Which language a plan is written in.

use std::path::Path;

/// The language of a plan's text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// TOML 1.1.
    Toml,
    /// YAML 1.2, the core schema.
    Yaml,
    /// JSON.
    Json,
}

impl Format {
    /// By the media type of a request; parameters such as `charset` are not looked at.
    pub fn from_content_type(value: &str) -> Option<Self> {
        let media = value
            .split(';')
            .next()
            .unwrap_or_default()
            .trim()
            .to_ascii_lowercase();
        match media.as_str() {
            "application/toml" | "text/toml" | "text/x-toml" => Some(Self::Toml),
            "application/yaml" | "application/x-yaml" | "text/yaml" | "text/x-yaml" => Some(Self::Yaml),
            "application/json" => Some(Self::Json),
            _ => None,
        }
    }

    /// By the end of a file's name: `.toml`, `.yaml`, `.yml` or `.json`.
    pub fn from_file_name(name: &str) -> Option<Self> {
        let end = Path::new(name).extension()?.to_str()?.to_ascii_lowercase();
        match end.as_str() {
            "toml" => Some(Self::Toml),
            "yaml" | "yml" => Some(Self::Yaml),
            "json" => Some(Self::Json),
            _ => None,
        }
    }

    /// The media type to send a plan with.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Toml => "application/toml",
            Self::Yaml => "application/yaml",
            Self::Json => "application/json",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_recognised() {
        for format in [Format::Toml, Format::Yaml, Format::Json] {
            assert_eq!(Format::from_content_type(format.content_type()), Some(format));
        }
        assert_eq!(
            Format::from_content_type("Text/YAML; charset=utf-8"),
            Some(Format::Yaml)
        );
        assert_eq!(Format::from_content_type("text/plain"), None);
        assert_eq!(Format::from_file_name("a/plan.YML"), Some(Format::Yaml));
        assert_eq!(Format::from_file_name("plan.json"), Some(Format::Json));
        assert_eq!(Format::from_file_name("toml"), None);
    }
}
