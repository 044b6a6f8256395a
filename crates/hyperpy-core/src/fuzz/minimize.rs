//! Making small what was found: as few parts as possible that still do it.
//!
//! Delta debugging (Zeller and Hildebrandt, ddmin): parts are taken out, large ones first, as long as what is left still does it. Then
//! each part is made simpler by itself.

/// Keeps as few items as `still` says yes to; the whole list is known to do. `still` is asked at most `budget` times.
pub fn fewest<T: Clone>(items: &[T], budget: &mut usize, mut still: impl FnMut(&[T]) -> bool) -> Vec<T> {
    let mut kept = items.to_vec();
    let mut size = kept.len().div_ceil(2);
    while size > 0 && !kept.is_empty() {
        let mut is_changed = false;
        // From the end: what comes after the failure goes at once.
        let mut end = kept.len();
        while end > 0 {
            let start = end.saturating_sub(size);
            if *budget == 0 {
                return kept;
            }
            *budget -= 1;
            let mut tried = kept.clone();
            tried.drain(start..end);
            if still(&tried) {
                kept = tried;
                is_changed = true;
            }
            end = start.min(kept.len());
        }
        if !(is_changed && size == 1) {
            size /= 2;
        }
    }
    kept
}

/// Makes each item simpler, by the first of its `simpler` forms that still does, again and again.
pub fn simplest<T: Clone>(
    items: &mut [T],
    budget: &mut usize,
    simpler: impl Fn(&T) -> Vec<T>,
    mut still: impl FnMut(&[T]) -> bool,
) {
    for at in 0..items.len() {
        'again: loop {
            let Some(old) = items.get(at).cloned() else { return };
            for new in simpler(&old) {
                if *budget == 0 {
                    return;
                }
                *budget -= 1;
                if let Some(place) = items.get_mut(at) {
                    *place = new;
                }
                if still(items) {
                    continue 'again;
                }
            }
            if let Some(place) = items.get_mut(at) {
                *place = old;
            }
            break;
        }
    }
}

#[cfg(test)]
#[path = "minimize_test.rs"]
mod tests;
