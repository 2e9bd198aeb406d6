//! `Combiner`: requests to one peer that are made at the same time become one.
//!
//! A few callers ask by themselves, each as long as it takes. Beyond these, only a few requests are
//! under way at a time, and nobody waits for a load in them, so that they are over soon. Who comes
//! meanwhile waits in line, and asks together with all others in line as soon as one of them is
//! over: the first in line leads, and tells the others. So the more there is to ask, the more goes
//! into one request, and where there is little, nothing waits. (Databases do the same with their
//! logs, as group commit.)
//!
//! What it saves is work of the system: with more threads than processors, most of a small request
//! between two processes is the cost of putting threads to sleep and waking them, at both ends.

use std::collections::VecDeque;

use crate::deadline::{Clock, Deadline};
use crate::slot::Slot;
use crate::sync::{Arc, Mutex, thread};

/// How many ask together at most.
const TOGETHER: usize = 128;

/// How often one who leads asks for others before it goes its own way: it runs already, which the
/// first of those in line does not.
const ROUNDS: usize = 16;

/// What one who asks has to say: questions of the same kind can be asked together.
pub(crate) trait Question: Send + 'static {
    fn goes_with(&self, other: &Self) -> bool;
}

pub(crate) struct Combiner<Q: Question, A: Send + 'static> {
    /// How many ask by themselves, and how many requests of many are under way.
    at_once: usize,
    line: Mutex<Line<Q, A>>,
}

struct Line<Q: Question, A: Send + 'static> {
    patient: usize,
    quick: usize,
    waiting: VecDeque<Seat<Q, A>>,
}

/// One who waits in line. Dropped without an answer, it asks by itself.
pub(crate) struct Seat<Q: Question, A: Send + 'static> {
    question: Q,
    slot: Arc<Slot<Turn<Q, A>>>,
}

/// What becomes of one who asks.
pub(crate) enum Turn<Q: Question, A: Send + 'static> {
    /// It asks now, by itself, and may wait for a load.
    Patient(Place<Q, A>),
    /// It asks now, for these others too, and waits for no load.
    Quick(Place<Q, A>, Vec<Seat<Q, A>>),
    /// Somebody else has asked.
    Answered(A),
    /// Somebody else has asked in vain: it asks by itself.
    Alone,
    /// Its time is up.
    Late,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Pace {
    Patient,
    Quick,
}

/// The right to ask. Dropped, it goes to those in line.
pub(crate) struct Place<Q: Question, A: Send + 'static> {
    combiner: Arc<Combiner<Q, A>>,
    pace: Pace,
    rounds: usize,
}

impl<Q: Question, A: Send + 'static> Combiner<Q, A> {
    pub(crate) fn new(at_once: usize) -> Arc<Combiner<Q, A>> {
        Arc::new(Combiner {
            at_once,
            line: Mutex::new(Line {
                patient: 0,
                quick: 0,
                waiting: VecDeque::new(),
            }),
        })
    }

    /// Waits until it is this caller's turn, or has an answer, no longer than `deadline`.
    pub(crate) fn take_turn(
        self: &Arc<Self>,
        question: impl FnOnce() -> Q,
        clock: &Clock,
        deadline: Deadline,
    ) -> Turn<Q, A> {
        let slot = {
            let mut line = self.line.lock();
            // Nobody goes before those in line.
            let is_free = line.waiting.is_empty();
            if is_free && line.patient + line.quick < self.at_once {
                line.patient += 1;
                return Turn::Patient(self.place(Pace::Patient));
            }
            if is_free && line.quick < self.at_once {
                line.quick += 1;
                return Turn::Quick(self.place(Pace::Quick), Vec::new());
            }
            let slot = Slot::new();
            line.waiting.push_back(Seat {
                question: question(),
                slot: Arc::clone(&slot),
            });
            slot
        };
        let turn = slot.wait(clock, deadline);
        turn.unwrap_or_else(|| {
            self.leave(&slot);
            Turn::Late
        })
    }

    fn place(self: &Arc<Self>, pace: Pace) -> Place<Q, A> {
        Place {
            combiner: Arc::clone(self),
            pace,
            rounds: ROUNDS,
        }
    }

    fn leave(&self, slot: &Arc<Slot<Turn<Q, A>>>) {
        let seat = {
            let mut line = self.line.lock();
            let mut seats = line.waiting.iter();
            let at = seats.position(|seat| Arc::ptr_eq(&seat.slot, slot));
            at.and_then(|at| line.waiting.remove(at))
        };
        drop(seat); // it has a lock of its own (I2)
    }

    /// Those who ask together next, if there is a place for them.
    fn next_party(&self, left: Pace) -> Option<Vec<Seat<Q, A>>> {
        let mut line = self.line.lock();
        match left {
            Pace::Patient => line.patient -= 1,
            Pace::Quick => line.quick -= 1,
        }
        if line.quick >= self.at_once {
            return None;
        }
        let party = line.party()?;
        line.quick += 1;
        Some(party)
    }
}

impl<Q: Question, A: Send + 'static> Line<Q, A> {
    /// Takes those out of the line who can ask together.
    fn party(&mut self) -> Option<Vec<Seat<Q, A>>> {
        let mut party = vec![self.waiting.pop_front()?];
        while party.len() < TOGETHER {
            match self.waiting.front() {
                Some(next) if next.question.goes_with(&party[0].question) => {
                    party.extend(self.waiting.pop_front());
                }
                _ => break,
            }
        }
        Some(party)
    }
}

impl<Q: Question, A: Send + 'static> Place<Q, A> {
    /// Those for whom one who leads should ask next, if it has not done enough.
    pub(crate) fn next_party(&mut self) -> Option<Vec<Seat<Q, A>>> {
        self.rounds = self.rounds.checked_sub(1)?;
        // Who has just been told gets in line again, perhaps.
        thread::yield_now();
        self.combiner.line.lock().party()
    }
}

impl<Q: Question, A: Send + 'static> Drop for Place<Q, A> {
    fn drop(&mut self) {
        let Some(mut party) = self.combiner.next_party(self.pace) else {
            return;
        };
        let mut place = self.combiner.place(Pace::Quick);
        while !party.is_empty() {
            let leader = party.remove(0);
            match leader.slot.fill(Turn::Quick(place, party)) {
                Ok(()) => return,
                // It gave up meanwhile: the next one leads.
                Err(Turn::Quick(back, others)) => (place, party) = (back, others),
                Err(_) => return,
            }
        }
    }
}

impl<Q: Question, A: Send + 'static> Seat<Q, A> {
    pub(crate) fn question(&self) -> &Q {
        &self.question
    }

    pub(crate) fn answer(self, answer: A) {
        // One who gave up meanwhile does not want it.
        let _ = self.slot.fill(Turn::Answered(answer));
    }
}

impl<Q: Question, A: Send + 'static> Drop for Seat<Q, A> {
    fn drop(&mut self) {
        // Unless it has its turn or its answer already.
        let _ = self.slot.fill(Turn::Alone);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use std::time::Duration;

    struct Word(&'static str);

    impl Question for Word {
        /// By their first letters.
        fn goes_with(&self, other: &Word) -> bool {
            self.0[..1] == other.0[..1]
        }
    }

    type Words = Arc<Combiner<Word, usize>>;

    fn take(words: &Words, word: &'static str) -> Turn<Word, usize> {
        words.take_turn(|| Word(word), &Clock::system(), Deadline::NEVER)
    }

    /// Takes a turn on another thread, which sends what it gets; returns once it is in line.
    fn get_in_line(
        words: &Words,
        word: &'static str,
        deadline: Deadline,
        clock: &Clock,
    ) -> mpsc::Receiver<Turn<Word, usize>> {
        let (sender, receiver) = mpsc::channel();
        let (line, clock) = (Arc::clone(words), clock.clone());
        let before = words.line.lock().waiting.len();
        std::thread::spawn(move || {
            let turn = line.take_turn(|| Word(word), &clock, deadline);
            let _ = sender.send(turn);
        });
        while words.line.lock().waiting.len() == before {
            std::thread::yield_now();
        }
        receiver
    }

    fn wait_for(words: &Words, word: &'static str) -> mpsc::Receiver<Turn<Word, usize>> {
        get_in_line(words, word, Deadline::NEVER, &Clock::system())
    }

    /// One who is patient and one who is quick, so that all others get in line.
    fn busy() -> (Words, Place<Word, usize>, Place<Word, usize>) {
        let words = Combiner::new(1);
        let Turn::Patient(patient) = take(&words, "a") else {
            panic!("the first waits");
        };
        let Turn::Quick(quick, others) = take(&words, "b") else {
            panic!("the second waits, or is patient");
        };
        assert!(others.is_empty());
        (words, patient, quick)
    }

    #[test]
    fn those_in_line_ask_together_when_a_place_is_free() {
        let (words, patient, quick) = busy();
        let turns = ["c1", "c2", "c3"].map(|word| wait_for(&words, word));
        drop(patient); // as long as one is quick, that is no place for another
        assert!(turns[0].try_recv().is_err());
        drop(quick);
        let Ok(Turn::Quick(place, others)) = turns[0].recv() else {
            panic!("the first in line does not lead");
        };
        let asked: Vec<_> = others.iter().map(|seat| seat.question().0).collect();
        assert_eq!(asked, ["c2", "c3"]);
        for (seat, answer) in others.into_iter().zip(2..) {
            seat.answer(answer);
        }
        assert!(matches!(turns[1].recv(), Ok(Turn::Answered(2))));
        assert!(matches!(turns[2].recv(), Ok(Turn::Answered(3))));
        drop(place);
        assert!(matches!(take(&words, "d"), Turn::Patient(_)));
    }

    #[test]
    fn only_questions_of_one_kind_go_together() {
        let (words, _patient, quick) = busy();
        let turns = ["c1", "d1", "c2"].map(|word| wait_for(&words, word));
        drop(quick);
        for turn in turns {
            let Ok(Turn::Quick(_, others)) = turn.recv() else {
                panic!("it does not lead");
            };
            assert!(others.is_empty());
        }
    }

    #[test]
    fn one_who_leads_may_go_on_but_not_for_ever() {
        let (words, _patient, mut quick) = busy();
        for _ in 0..ROUNDS {
            let turn = wait_for(&words, "c");
            let party = quick.next_party().unwrap();
            party.into_iter().for_each(|seat| seat.answer(1));
            assert!(matches!(turn.recv(), Ok(Turn::Answered(1))));
        }
        let turn = wait_for(&words, "c");
        assert!(quick.next_party().is_none());
        drop(quick);
        assert!(matches!(turn.recv(), Ok(Turn::Quick(..))));
    }

    #[test]
    fn who_is_forgotten_asks_by_itself() {
        let (words, _patient, quick) = busy();
        let turns = ["c1", "c2"].map(|word| wait_for(&words, word));
        drop(quick);
        drop(turns[0].recv()); // the leader was lost, and its party with it
        assert!(matches!(turns[1].recv(), Ok(Turn::Alone)));
        assert!(words.line.lock().waiting.is_empty());
        assert_eq!(words.line.lock().quick, 0);
    }

    #[test]
    fn who_gives_up_leaves_the_line_and_never_leads() {
        let (words, _patient, quick) = busy();
        let clock = Clock::manual();
        let deadline = Deadline::after(clock.now(), Duration::from_secs(1));
        let late = get_in_line(&words, "c1", deadline, &clock);
        let next = wait_for(&words, "c2");
        clock.advance(Duration::from_secs(2));
        assert!(matches!(late.recv(), Ok(Turn::Late)));
        assert_eq!(words.line.lock().waiting.len(), 1);
        drop(quick);
        let Ok(Turn::Quick(_place, others)) = next.recv() else {
            panic!("the next one does not lead");
        };
        assert!(others.is_empty());
    }

    #[test]
    fn a_place_that_nobody_takes_goes_on() {
        let (words, _patient, quick) = busy();
        let turns = ["c1", "c2"].map(|word| wait_for(&words, word));
        // As if its time were up just now: its slot is closed, but it is still in line.
        words.line.lock().waiting[0].slot.close();
        drop(quick);
        let Ok(Turn::Quick(_place, others)) = turns[1].recv() else {
            panic!("the next one does not lead");
        };
        assert!(others.is_empty());
    }
}
