//! What is said of a scheduler that does not exist.

use dataplane::schedule;

/// Names the nearest known scheduler and all of them.
pub fn unknown(name: &str) -> String {
    let near = schedule::names()
        .map(|known| (strsim::damerau_levenshtein(name, known), known))
        .min()
        .filter(|(distance, known)| *distance < known.len())
        .map(|(_, known)| format!("; did you mean \"{known}\"?"));
    format!(
        "scheduler \"{name}\" is unknown{} known: {}",
        near.as_deref().unwrap_or(";"),
        schedule::names().collect::<Vec<_>>().join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_offered() {
        let told = unknown("wlcc");
        assert!(told.starts_with("scheduler \"wlcc\" is unknown; did you mean \"wlc\"? known: rr"));
        assert!(!unknown("x").contains("did you mean"), "{}", unknown("x"));
    }
}
