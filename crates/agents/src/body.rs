//! Spec and plan out of an issue's body.

/// What a planner wrote into an issue.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct IssueBody {
    /// What is to be done.
    pub spec: String,
    /// How; empty if the body does not say.
    pub plan: String,
}

/// Splits at the headings `Spec` and `Plan` of any level, in any case, outside fenced code.
///
/// Nothing is lost: text before the first of them belongs to the spec, other headings stay in the section they are in,
/// and a section that comes twice is joined.
pub fn split_body(body: &str) -> IssueBody {
    let mut out = IssueBody::default();
    let mut in_plan = false;
    let mut fence = None;
    for line in body.lines() {
        let mark = line.trim_start();
        match fence {
            None => {
                fence = fence_of(mark);
                if fence.is_none()
                    && let Some(plan) = section_of(mark)
                {
                    in_plan = plan;
                    continue;
                }
            }
            // A fence ends with at least as many of its own characters and nothing else.
            Some((c, length)) => {
                let rest = mark.trim_end();
                if rest.len() >= length && rest.chars().all(|x| x == c) {
                    fence = None;
                }
            }
        }
        let section = if in_plan { &mut out.plan } else { &mut out.spec };
        section.push_str(line);
        section.push('\n');
    }
    out.spec = trim_lines(&out.spec);
    out.plan = trim_lines(&out.plan);
    out
}

fn fence_of(line: &str) -> Option<(char, usize)> {
    let c = line.chars().next().filter(|c| matches!(c, '`' | '~'))?;
    let length = line.chars().take_while(|x| *x == c).count();
    (length >= 3).then_some((c, length))
}

/// Whether the line is the heading of the plan (true) or the spec (false).
fn section_of(line: &str) -> Option<bool> {
    let title = line.trim_start_matches('#');
    let level = line.len() - title.len();
    if !(1..=6).contains(&level) || !title.starts_with([' ', '\t']) {
        return None;
    }
    let title = title
        .trim()
        .trim_end_matches('#')
        .trim_end()
        .trim_end_matches(':');
    if title.eq_ignore_ascii_case("plan") {
        Some(true)
    } else if title.eq_ignore_ascii_case("spec") || title.eq_ignore_ascii_case("specification") {
        Some(false)
    } else {
        None
    }
}

/// Without empty lines around, keeping the first line's indentation.
fn trim_lines(text: &str) -> String {
    let text = text.trim_end();
    let start = text.find(|c: char| !c.is_whitespace()).unwrap_or(0);
    let start = text[..start].rfind('\n').map_or(0, |newline| newline + 1);
    text[start..].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn split(body: &str) -> (String, String) {
        let IssueBody { spec, plan } = split_body(body);
        (spec, plan)
    }

    fn pair(spec: &str, plan: &str) -> (String, String) {
        (spec.to_owned(), plan.to_owned())
    }

    #[test]
    fn the_usual_form() {
        let body = "## Spec\n\nAdd a flag.\n\n### Details\nShort.\n\n## Plan\n1. Look\n2. Write\n";
        assert_eq!(
            split(body),
            pair("Add a flag.\n\n### Details\nShort.", "1. Look\n2. Write")
        );
    }

    #[test]
    fn other_forms() {
        assert_eq!(split("just words"), pair("just words", ""));
        assert_eq!(split(""), pair("", ""));
        assert_eq!(
            split("intro\n# PLAN:\nx\r\n# Specification ##\ny"),
            pair("intro\ny", "x")
        );
        assert_eq!(
            split("## Planning\nx\n##Plan\ny"),
            pair("## Planning\nx\n##Plan\ny", "")
        );
        assert_eq!(split("\n\n    code\n"), pair("    code", ""));
    }

    #[test]
    fn headings_in_code_are_code() {
        let body = "## Spec\n```md\n## Plan\n``` \nrest\n~~~~\n## Plan\n~~~\n~~~~\n## Plan\nreal";
        assert_eq!(
            split(body),
            pair("```md\n## Plan\n``` \nrest\n~~~~\n## Plan\n~~~\n~~~~", "real")
        );
    }

    proptest! {
        #[test]
        fn no_line_of_text_is_lost(lines in prop::collection::vec("[a-z# `~é]{0,8}", 0..12)) {
            let body = split_body(&lines.join("\n"));
            let kept = body.spec.lines().chain(body.plan.lines()).filter(|line| !line.trim().is_empty()).count();
            let headings = lines.iter().filter(|line| section_of(line.trim_start()).is_some()).count();
            let given = lines.iter().filter(|line| !line.trim().is_empty()).count();
            prop_assert!(kept <= given && kept + headings >= given);
        }
    }
}
