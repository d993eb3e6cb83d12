//! A part of a plan: the tests that somebody asks for.

use crate::Plan;

impl Plan {
    /// Keeps the tests whose name contains one of these texts, and all that they need; false when there are none, and the
    /// plan is then as it was. Identities stay: the history of a test does not depend on what ran beside it.
    pub fn select(&mut self, texts: &[String]) -> bool {
        let asked = |name: &str| texts.iter().any(|text| name.contains(text.as_str()));
        let mut kept: Vec<bool> = self.tests.iter().map(|test| asked(&test.name)).collect();
        if !kept.contains(&true) {
            return false;
        }
        // What a test needs stands before it, so that one pass from the end reaches everything.
        for (at, test) in self.tests.iter().enumerate().rev() {
            if kept[at] {
                for need in &test.needs {
                    kept[*need as usize] = true;
                }
            }
        }
        let mut next = 0_u32;
        let places: Vec<u32> = kept
            .iter()
            .map(|kept| {
                let place = next;
                next += u32::from(*kept);
                place
            })
            .collect();
        let mut at = 0;
        self.tests.retain_mut(|test| {
            for need in &mut test.needs {
                *need = places[*need as usize];
            }
            at += 1;
            kept[at - 1]
        });
        true
    }
}

#[cfg(test)]
mod tests {
    use crate::{Format, Plan, test_key};

    const PLAN: &str = r#"
        name = "shop"
        [[tests]]
        name = "lint"
        run = "true"
        [[tests]]
        name = "build"
        run = "true"
        [[tests]]
        name = "install"
        run = "true"
        needs = ["build"]
        [[tests]]
        name = "unit"
        run = "true"
        shards = 2
        [[tests]]
        name = "smoke"
        run = "true"
        needs = ["install", "lint"]
    "#;

    fn selected(texts: &[&str]) -> Option<Vec<(String, Vec<String>)>> {
        let mut plan = Plan::parse(PLAN, Format::Toml).unwrap();
        let texts: Vec<String> = texts.iter().map(|text| (*text).to_owned()).collect();
        if !plan.select(&texts) {
            assert_eq!(plan, Plan::parse(PLAN, Format::Toml).unwrap());
            return None;
        }
        let name = |at: &u32| plan.tests[*at as usize].name.clone();
        let tests = plan.tests.iter();
        Some(
            tests
                .map(|test| {
                    assert_eq!(test.key, test_key("shop", &test.name));
                    (test.name.clone(), test.needs.iter().map(name).collect())
                })
                .collect(),
        )
    }

    #[test]
    fn what_is_needed_comes_along() {
        let found = |texts: &[&str]| selected(texts).unwrap();
        let list = |tests: &[(&str, &[&str])]| -> Vec<(String, Vec<String>)> {
            let owned = |needs: &[&str]| needs.iter().map(|need| (*need).to_owned()).collect();
            tests
                .iter()
                .map(|(name, needs)| ((*name).to_owned(), owned(needs)))
                .collect()
        };
        assert_eq!(found(&["inst"]), list(&[("build", &[]), ("install", &["build"])]));
        assert_eq!(
            found(&["smoke"]),
            list(&[
                ("lint", &[]),
                ("build", &[]),
                ("install", &["build"]),
                ("smoke", &["lint", "install"])
            ])
        );
        assert_eq!(
            found(&["shard=2", "lint"]),
            list(&[("lint", &[]), ("unit [shard=2/2]", &[])])
        );
        assert_eq!(found(&[""]).len(), 6);
        assert_eq!(selected(&["nothing"]), None);
        assert_eq!(selected(&[]), None);
    }
}
