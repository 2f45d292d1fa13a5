//! "Did you mean …?": the known word that is closest to a mistyped one.

/// The closest of `known`, if any is close enough to be what was meant.
pub(crate) fn closest<'a>(given: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let scored = known.into_iter().map(|word| (strsim::damerau_levenshtein(given, word), word));
    let (distance, word) = scored.min_by_key(|(distance, _)| *distance)?;
    (distance <= 1 + word.len() / 4).then_some(word)
}

/// `; did you mean "…"?` if one of `known` is close enough, else nothing: what an error message ends with.
pub fn did_you_mean<'a>(given: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    closest(given, known).map(|meant| format!("; did you mean \"{meant}\"?")).unwrap_or_default()
}
