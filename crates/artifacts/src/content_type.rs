//! What a download says of itself. Browsers never show artifacts in place, so this only chooses a program and an icon.

/// The content type of a file, from the end of its name; `application/octet-stream` when that says nothing.
pub fn content_type(path: &str) -> &'static str {
    let name = path.rsplit('/').next().unwrap_or(path);
    let Some((_, ending)) = name.rsplit_once('.') else {
        return "application/octet-stream";
    };
    match ending.to_ascii_lowercase().as_str() {
        "txt" | "log" | "md" | "tap" | "diff" | "patch" | "toml" | "ini" | "conf" => {
            "text/plain; charset=utf-8"
        }
        "csv" => "text/csv; charset=utf-8",
        "html" | "htm" => "text/html; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "xml" => "application/xml",
        "json" => "application/json",
        "ndjson" | "jsonl" => "application/x-ndjson",
        "yaml" | "yml" => "application/yaml",
        "pdf" => "application/pdf",
        "zip" => "application/zip",
        "tar" => "application/x-tar",
        "gz" | "tgz" => "application/gzip",
        "xz" => "application/x-xz",
        "zst" => "application/zstd",
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "gif" => "image/gif",
        "svg" => "image/svg+xml",
        "webp" => "image/webp",
        "mp4" => "video/mp4",
        "webm" => "video/webm",
        "wasm" => "application/wasm",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::content_type;

    #[test]
    fn the_end_of_the_name_decides() {
        assert_eq!(content_type("a.d/report.XML"), "application/xml");
        assert_eq!(content_type("a.html/core"), "application/octet-stream");
        assert_eq!(content_type("out.tar.gz"), "application/gzip");
        assert_eq!(content_type(""), "application/octet-stream");
    }
}
