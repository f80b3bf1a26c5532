//! Owns an earlier run, as `--json` printed it: its figures, and where its settings differ. Must not know how either is
//! shown.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::{Map, Value};

/// Settings that do not change what is measured, or that every figure names itself.
const NOT_COMPARED: [&str; 3] = ["admin", "pid", "scenario"];

/// See the module.
#[derive(Debug, Deserialize)]
pub struct Earlier {
    version: String,
    settings: Map<String, Value>,
    results: Vec<Map<String, Value>>,
}

impl Earlier {
    pub fn parse(text: &str) -> Result<Earlier, serde_json::Error> {
        serde_json::from_str(text)
    }

    /// What differs from the settings now: one line each.
    pub fn differences(&self, version: &str, settings: &Map<String, Value>) -> Vec<String> {
        let mut lines = Vec::new();
        if self.version != version {
            lines.push(format!("version: {} then, {version} now", self.version));
        }
        let names: BTreeSet<_> = self.settings.keys().chain(settings.keys()).collect();
        for name in names.into_iter().filter(|name| !NOT_COMPARED.contains(&name.as_str())) {
            let shown = |of: &Map<String, Value>| match of.get(name) {
                None | Some(Value::Null) => "unset".to_owned(),
                Some(Value::String(text)) => text.clone(),
                Some(value) => value.to_string(),
            };
            let (then, now) = (shown(&self.settings), shown(settings));
            if then != now {
                lines.push(format!("{}: {then} then, {now} now", name.replace('_', "-")));
            }
        }
        lines
    }

    /// Of each figure of a scenario, how many times that of the earlier run it is; of those that both have.
    pub fn ratios(&self, now: &Map<String, Value>) -> BTreeMap<String, f64> {
        let then = self.results.iter().find(|then| then.get("scenario") == now.get("scenario"));
        let Some(then) = then else { return BTreeMap::new() };
        let ratio = |(name, value): (&String, &Value)| {
            let then = then.get(name)?.as_f64().filter(|then| *then != 0.0)?;
            Some((name.clone(), value.as_f64()? / then))
        };
        now.iter().filter_map(ratio).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn map(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn settings_that_differ_are_told_and_figures_that_both_have_are_compared() {
        let earlier = json!({
            "version": "0.1.0",
            "settings": { "sockets": 8, "url": "ws://a/ws", "pid": 7, "rate": null, "old": 1 },
            "results": [{ "scenario": "ping", "p50_us": 10, "max_us": 0, "per_second": 4.0, "gone": 3 }],
        });
        let earlier = Earlier::parse(&earlier.to_string()).unwrap();
        let settings = map(json!({ "sockets": 64, "url": "ws://a/ws", "pid": null, "rate": 5.0 }));
        let told = ["version: 0.1.0 then, 0.2.0 now", "old: 1 then, unset now", "rate: unset then, 5.0 now"];
        let differences = earlier.differences("0.2.0", &settings);
        assert_eq!(differences[..3], told);
        assert_eq!(differences[3..], ["sockets: 8 then, 64 now"]);

        let now = map(json!({ "scenario": "ping", "p50_us": 5, "max_us": 9, "per_second": 8.0, "new": 1 }));
        let ratios = earlier.ratios(&now);
        assert_eq!(
            ratios.into_iter().collect::<Vec<_>>(),
            [("p50_us".into(), 0.5), ("per_second".into(), 2.0)]
        );
        assert!(earlier.ratios(&map(json!({ "scenario": "load", "p50_us": 5 }))).is_empty());
        assert!(Earlier::parse("{}").is_err());
    }
}
