use super::pending::MAX_RANGES;
use super::removal_log::{MAX_BYTES, MAX_TRUNCATED_GROUPS};
use super::tombstones::MAX_TOMBSTONES;
use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn info(origin: u64, sequence: u64) -> ChangeInfo {
    ChangeInfo {
        stamp: Some(Stamp { origin, sequence }),
        ring: Some(7),
    }
}

/// The groups and the keys of what is pending.
fn removes(journal: &Journal, pending: &PendingRemovals) -> Vec<(String, Vec<String>)> {
    let mut all = Vec::new();
    while let Some(batch) = journal.next_batch(pending) {
        pending.remove(&batch.range);
        let Removals::Keys(group, keys) = batch.removals else {
            panic!("{batch:?}");
        };
        let keys = keys.iter().map(|key| key.to_string()).collect();
        all.push((group.to_string(), keys));
    }
    all
}

fn groups(names: &[&str]) -> Removals {
    Removals::Groups(names.iter().map(|&name| Arc::from(name)).collect())
}

fn record(journal: &Journal, group: &str, keys: &[&str], now: Instant) -> Range<u64> {
    let range = begin(journal, group, Some(keys), now);
    journal.finish(&range);
    range
}

/// As [`record`], of a change that stays in progress.
fn begin(journal: &Journal, group: &str, keys: Option<&[&str]>, now: Instant) -> Range<u64> {
    journal.record(&Arc::from(group), keys, now).0
}

#[test]
fn pending_removals_are_delivered_once_and_nothing_else_is() {
    let now = Instant::now();
    let (journal, pending) = (Journal::new("me", now), PendingRemovals::default());
    pending.add(record(&journal, "g", &["a", "b"], now));
    record(&journal, "g", &["delivered"], now);
    pending.add(record(&journal, "h", &["a"], now));
    assert_eq!(journal.count(&pending), 3);
    let expected = [("g", vec!["a", "b"]), ("h", vec!["a"])];
    let expected = expected.map(|(group, keys)| {
        (
            group.to_owned(),
            keys.into_iter().map(str::to_owned).collect::<Vec<_>>(),
        )
    });
    assert_eq!(removes(&journal, &pending), expected);
    assert_eq!(journal.count(&pending), 0);
    assert_eq!(pending.first(), None);
}

#[test]
fn a_change_in_progress_is_not_delivered() {
    let now = Instant::now();
    let (journal, pending) = (Journal::new("me", now), PendingRemovals::default());
    let range = begin(&journal, "g", Some(&["a"]), now);
    pending.add(journal.whole_range(now));
    assert!(!journal.has_deliverable(&pending));
    journal.finish(&range);
    assert!(journal.has_deliverable(&pending));
}

#[test]
fn a_change_in_progress_is_kept_as_it_may_become_pending() {
    let now = Instant::now();
    let (journal, pending) = (Journal::new("me", now), PendingRemovals::default());
    let range = begin(&journal, "g", Some(&["a"]), now);
    let later = now + MEMORY + SECOND;
    journal.expire(later, u64::MAX);
    pending.add(range.clone());
    assert!(journal.has_pending(&pending));
    journal.finish(&range);
    let batch = journal.next_batch(&pending).unwrap();
    assert_eq!(batch.removals, groups(&["g"]));
    pending.remove(&batch.range);
    assert!(!journal.has_pending(&pending));
}

#[test]
fn a_change_in_progress_stays_pending_though_it_has_left_the_log() {
    let now = Instant::now();
    let (journal, pending) = (Journal::new("me", now), PendingRemovals::default());
    pending.add(record(&journal, "g", &["a"], now));
    let range = begin(&journal, "g", Some(&["b"]), now);
    pending.add(range.clone());
    journal.expire(now + MEMORY + SECOND, 0);
    let batch = journal.next_batch(&pending).unwrap();
    pending.remove(&batch.range);
    assert_eq!(pending.first(), Some(range.start));
    assert!(!journal.has_deliverable(&pending));
    journal.finish(&range);
    assert!(journal.has_deliverable(&pending));
}

#[test]
fn what_is_added_during_its_delivery_is_delivered_once_more() {
    let now = Instant::now();
    let (journal, pending) = (Journal::new("me", now), PendingRemovals::default());
    let range = record(&journal, "g", &["a"], now);
    pending.add(range.clone());
    let batch = journal.next_batch(&pending).unwrap();
    pending.add(range);
    assert!(journal.has_deliverable(&pending));
    pending.remove(&batch.range);
    assert_eq!(removes(&journal, &pending).len(), 1);
    assert_eq!(pending.first(), None);
}

#[test]
fn a_new_peer_clears_a_truncated_group_though_something_older_was_truncated_later() {
    let now = Instant::now();
    let journal = Journal::new("me", now);
    record(&journal, "g", &["new"], now);
    let old = LoggedRemoval {
        group: Some(Arc::from("g")),
        key: Some(Arc::from("old")),
        at: now.checked_sub(MEMORY).unwrap(),
    };
    journal.take_over(vec![old], now);
    let long = "k".repeat(10_000);
    for number in 0..200 {
        record(&journal, "h", &[&format!("{long}{number}")], now);
    }
    let later = now + MEMORY / 2;
    journal.expire(later, u64::MAX);
    let pending = PendingRemovals::default();
    pending.add(journal.whole_range(later));
    let batch = journal.next_batch(&pending).unwrap();
    assert_eq!(batch.removals, groups(&["g", "h"]));
}

#[test]
fn the_log_is_bounded_however_often_a_key_is_removed() {
    let now = Instant::now();
    let (journal, pending) = (Journal::new("me", now), PendingRemovals::default());
    for _ in 0..100_000 {
        pending.add(record(&journal, "g", &["a"], now));
    }
    assert!(journal.state.lock().log.bytes() <= MAX_BYTES);
    assert!(pending.ranges().len() <= MAX_RANGES);
    let batch = journal.next_batch(&pending).unwrap();
    assert_eq!(batch.removals, groups(&["g"]));
}

#[test]
fn where_the_log_no_longer_reaches_the_groups_concerned_are_cleared() {
    let now = Instant::now();
    let (journal, pending) = (Journal::new("me", now), PendingRemovals::default());
    pending.add(record(&journal, "old", &["a"], now));
    let long = "k".repeat(10_000);
    for number in 0..200 {
        let key = format!("{long}{number}");
        pending.add(record(&journal, "g", &[&key], now));
        assert!(journal.state.lock().log.bytes() <= MAX_BYTES);
    }
    let are_truncated = |pending: &PendingRemovals| {
        let batch = journal.next_batch(pending).unwrap();
        assert_eq!(batch.removals, groups(&["g", "old"]));
        pending.remove(&batch.range);
    };
    are_truncated(&pending);
    let left = removes(&journal, &pending);
    let keys: usize = left.iter().map(|(_, keys)| keys.len()).sum();
    assert!(keys > 90 && left.iter().all(|(_, keys)| keys.len() <= MAX_BATCH_KEYS));
    // A peer of which nothing is known gets the same.
    pending.add(journal.whole_range(now));
    are_truncated(&pending);
    // Later all is forgotten.
    journal.expire(now + MEMORY + SECOND, u64::MAX);
    assert!(journal.whole_range(now + MEMORY + SECOND).is_empty());
    let state = journal.state.lock();
    assert_eq!((state.log.bytes(), state.log.truncated_groups()), (0, 0));
}

#[test]
fn too_many_groups_are_not_known_by_name_any_more() {
    let now = Instant::now();
    let (journal, pending) = (Journal::new("me", now), PendingRemovals::default());
    for number in 0..=MAX_TRUNCATED_GROUPS {
        pending.add(record(&journal, &number.to_string(), &["a"], now));
    }
    journal.expire(now + MEMORY + SECOND, 0);
    let batch = journal.next_batch(&pending).unwrap();
    assert_eq!(batch.removals, Removals::All);
    // It is handed over as well.
    let entries = journal.removals(&pending);
    assert!(entries.iter().any(|entry| entry.group.is_none()));
}

#[test]
fn a_pending_entry_is_delivered_though_it_is_removed_again_or_has_left_the_log() {
    let now = Instant::now();
    let (journal, pending) = (Journal::new("me", now), PendingRemovals::default());
    let many: Vec<String> = (0..3 * MAX_BATCH_KEYS).map(|key| key.to_string()).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    // Removed again while they are pending, in a change that the peer receives.
    pending.add(record(&journal, "g", &many, now));
    record(&journal, "other", &["a"], now);
    record(&journal, "g", &many, now);
    assert_eq!(journal.count(&pending), many.len());
    let delivered = removes(&journal, &pending).into_iter();
    let delivered: Vec<String> = delivered.flat_map(|(_, keys)| keys).collect();
    assert_eq!(delivered, many);
    assert_eq!(journal.count(&pending), 0);
    // And now all of them leave the log: which of them were pending is not known any more.
    pending.add(record(&journal, "g", &["a"], now));
    record(&journal, "h", &["a"], now);
    record(&journal, "g", &["a"], now);
    journal.expire(now + MEMORY + SECOND, 0);
    let batch = journal.next_batch(&pending).unwrap();
    assert_eq!(batch.removals, groups(&["g", "h"]));
    pending.remove(&batch.range);
    assert_eq!(journal.next_batch(&pending), None);
}

#[test]
fn a_set_is_numbered_again_unless_its_key_was_changed_since() {
    let now = Instant::now();
    let journal = Journal::new("me", now);
    let again = |range: &Range<u64>| {
        let refused = journal.refused_set("g", "a", range);
        assert_ne!(refused, RefusedSet::Unknown);
        matches!(refused, RefusedSet::Retry(_))
    };
    for keys in [Some(&["a"] as &[&str]), None] {
        let range = record(&journal, "g", &["a"], now);
        record(&journal, "g", &["b"], now);
        begin(&journal, "h", keys, now);
        assert!(again(&range));
        begin(&journal, "g", keys, now);
        assert!(!again(&range));
    }
}

#[test]
fn too_many_ranges_become_fewer_and_none_is_lost() {
    let pending = PendingRemovals::default();
    for range in 0..1_000 {
        pending.add(3 * range..3 * range + 1);
    }
    let ranges = pending.ranges();
    assert_eq!(ranges.len(), MAX_RANGES);
    let has = |at: u64| ranges.iter().any(|range| range.contains(&at));
    assert!((0..1_000).all(|range| has(3 * range)));
    pending.begin_delivery();
    pending.remove(&(10..20));
    let ranges = pending.ranges();
    assert!(
        !ranges
            .iter()
            .any(|range| (10..20).any(|at| range.contains(&at)))
    );
}

#[test]
fn a_removal_is_known_by_its_stamp_until_it_is_old() {
    let now = Instant::now();
    let journal = Journal::new("me", now);
    let removed = |at| journal.removed("g", "a", at);
    assert_eq!(removed(now), Removed::Never);
    let change = journal.add_tombstone("g", Some("a"), info(1, 5), now);
    let stamp = |sequence| Stamp {
        origin: 1,
        sequence,
    };
    assert!(matches!(removed(now), Removed::By(by, _) if by == stamp(5)));
    assert!(!journal.has_applied("g", "a", stamp(5)), "not yet");
    journal.mark_applied(change);
    assert!(journal.has_applied("g", "a", stamp(4)));
    assert!(journal.has_applied("g", "a", stamp(5)));
    assert!(!journal.has_applied("g", "a", stamp(6)));
    assert!(!journal.has_applied("h", "a", stamp(5)), "another group");
    let _ = journal.add_tombstone("g", None, info(1, 9), now);
    assert!(matches!(removed(now), Removed::By(by, _) if by == stamp(9)));
    let _ = journal.add_tombstone("g", Some("a"), info(2, 1), now);
    assert_eq!(
        removed(now),
        Removed::Perhaps,
        "by two at about the same time"
    );
    assert_eq!(removed(now + MEMORY + 2 * SECOND), Removed::Never);
}

#[test]
fn what_is_forgotten_too_early_is_taken_for_removed() {
    let now = Instant::now();
    let journal = Journal::new("me", now);
    let note = |number: usize, at| {
        let key = number.to_string();
        let _ = journal.add_tombstone("g", Some(&key), info(1, number as u64 + 1), at);
    };
    (0..40_000).for_each(|number| note(number, now));
    assert_eq!(journal.removed("g", "other", now), Removed::Never);
    (40_000..3 * MAX_TOMBSTONES).for_each(|number| note(number, now));
    assert_eq!(journal.removed("g", "other", now), Removed::Perhaps);
    let later = now + MEMORY + 2 * SECOND;
    assert_eq!(journal.removed("g", "other", later), Removed::Never);
    let state = journal.state.lock();
    assert!(state.tombstones.len() <= 2 * MAX_TOMBSTONES);
    drop(state);
    // A set from before that may be older than something that is forgotten.
    assert!(journal.begin_set("g", "new", info(1, 3), later).is_none());
    assert!(journal.begin_set("g", "new", info(2, 3), later).is_some());
}

#[test]
fn a_set_is_superseded_by_a_later_change_of_its_sender_while_it_is_under_way() {
    let now = Instant::now();
    let journal = Journal::new("me", now);
    let is_superseded = |set: &SetGuard<'_>| set.superseded().load(Ordering::Acquire);
    for key in [Some("a"), None] {
        let set = journal.begin_set("g", "a", info(1, 5), now).unwrap();
        let _ = journal.add_tombstone("g", Some("a"), info(2, 6), now);
        let _ = journal.add_tombstone("g", Some("b"), info(1, 6), now);
        let _ = journal.add_tombstone("h", Some("a"), info(1, 6), now);
        assert!(!is_superseded(&set), "another sender, key and group");
        let _ = journal.add_tombstone("g", key, info(1, 7), now);
        assert!(is_superseded(&set));
        drop(set);
        assert!(journal.begin_set("g", "a", info(1, 6), now).is_none());
        assert!(journal.state.lock().sets.is_empty());
        let another = Journal::new("me", now);
        let _ = another.add_tombstone("g", key, info(1, 7), now);
        assert!(another.begin_set("g", "a", info(1, 6), now).is_none());
        assert!(another.begin_set("g", "a", info(1, 8), now).is_some());
        *journal.state.lock() = State::new(now);
    }
}

#[test]
fn tombstones_of_another_node_are_merged() {
    let now = Instant::now();
    let [one, other] = [1, 2].map(|_| Journal::new("me", now));
    assert_ne!(one.stamp().origin, other.stamp().origin, "two processes");
    let _ = one.add_tombstone("g", Some("a"), info(1, 5), now);
    let _ = one.add_tombstone("g", Some("b"), ChangeInfo::default(), now);
    other.merge_tombstones(one.tombstones(10, now), now);
    let stamp = Stamp {
        origin: 1,
        sequence: 5,
    };
    let removed = other.removed("g", "a", now);
    assert!(matches!(removed, Removed::By(by, ring) if by == stamp && ring.may_be(99)));
    assert_eq!(other.removed("g", "b", now), Removed::Perhaps);
    assert_eq!(other.removed("g", "c", now), Removed::Never);
    assert_eq!(one.tombstones(1, now), None, "they are too many");
    other.merge_tombstones(None, now);
    assert_eq!(other.removed("g", "c", now), Removed::Perhaps);
}
