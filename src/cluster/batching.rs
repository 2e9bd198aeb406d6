//! `Batcher`: requests to one peer that are made at the same time become one.
//!
//! As long as there are only a few callers, each asks by itself, and takes the time it takes. Where
//! there are more, only a few requests are under way at a time, and they are for what the peer has in
//! memory, so that they are over soon. Who comes meanwhile waits in line, and asks together with all others
//! in line as soon as one of them is over: the first in line leads, and tells the others. So the
//! more there is to ask, the more goes into one request. (Databases do the same with their logs, as
//! group commit.) Who has led goes its own way with its answer: the next in line leads after it.
//!
//! What it saves is work of the system: with more threads than processors, most of a small request
//! between two processes is the cost of putting threads to sleep and waking them, at both ends.

use std::collections::VecDeque;

use crate::runtime::clock::{Clock, Deadline};
use crate::runtime::slot::Slot;
use crate::runtime::sync::{Arc, AtomicUsize, Mutex, Ordering};

/// How many ask together at most.
const TOGETHER: usize = 128;

/// What one who asks has to say: questions of the same kind can be asked together.
pub(crate) trait Question: Send + 'static {
    fn goes_with(&self, other: &Self) -> bool;
}

pub(crate) struct Batcher<Q: Question, A: Send + 'static> {
    /// How many callers there may be before they have to be quick.
    max_patient: usize,
    /// How many quick requests may be under way.
    max_quick: usize,
    callers: AtomicUsize,
    line: Mutex<Line<Q, A>>,
}

struct Line<Q: Question, A: Send + 'static> {
    /// Requests under way.
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
    /// It asks by itself, and may wait for a load.
    Patient,
    /// It asks now, for these others too, for what is in memory there.
    Quick(Place<Q, A>, Vec<Seat<Q, A>>),
    /// Somebody else has asked.
    Answered(A),
    /// Somebody else has asked in vain: it asks by itself.
    Alone,
    /// Its time is up.
    Late,
}

/// One who asks, until it has what it wants.
pub(crate) struct Caller<'a, Q: Question, A: Send + 'static> {
    batcher: &'a Arc<Batcher<Q, A>>,
    is_one_of_few: bool,
}

/// The right to ask for others. Dropped, it goes to those in line.
pub(crate) struct Place<Q: Question, A: Send + 'static> {
    batcher: Arc<Batcher<Q, A>>,
}

impl<Q: Question, A: Send + 'static> Batcher<Q, A> {
    /// With so many callers who ask by themselves, and so many requests for others under way.
    pub(crate) fn new((max_patient, max_quick): (usize, usize)) -> Arc<Batcher<Q, A>> {
        Arc::new(Batcher {
            max_patient,
            max_quick,
            callers: AtomicUsize::new(0),
            line: Mutex::new(Line {
                quick: 0,
                waiting: VecDeque::new(),
            }),
        })
    }

    pub(crate) fn enter(self: &Arc<Self>) -> Caller<'_, Q, A> {
        let others = self.callers.fetch_add(1, Ordering::Relaxed);
        Caller {
            batcher: self,
            is_one_of_few: others < self.max_patient,
        }
    }

    fn place(self: &Arc<Self>) -> Place<Q, A> {
        Place {
            batcher: Arc::clone(self),
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

    /// Those who take over the place of one who leaves it.
    fn successors(&self) -> Option<Vec<Seat<Q, A>>> {
        let mut line = self.line.lock();
        let party = line.party();
        if party.is_none() {
            line.quick -= 1;
        }
        party
    }
}

impl<Q: Question, A: Send + 'static> Caller<'_, Q, A> {
    /// Waits until it is this caller's turn, or has an answer, no longer than `deadline`.
    pub(crate) fn take_turn(
        &self,
        question: impl FnOnce() -> Q,
        clock: &Clock,
        deadline: Deadline,
    ) -> Turn<Q, A> {
        if self.is_one_of_few {
            return Turn::Patient;
        }
        let slot = {
            let mut line = self.batcher.line.lock();
            if line.quick < self.batcher.max_quick {
                line.quick += 1;
                return Turn::Quick(self.batcher.place(), Vec::new());
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
            self.batcher.leave(&slot);
            Turn::Late
        })
    }
}

impl<Q: Question, A: Send + 'static> Drop for Caller<'_, Q, A> {
    fn drop(&mut self) {
        self.batcher.callers.fetch_sub(1, Ordering::Relaxed);
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

impl<Q: Question, A: Send + 'static> Drop for Place<Q, A> {
    fn drop(&mut self) {
        let Some(mut party) = self.batcher.successors() else {
            return;
        };
        let mut place = self.batcher.place();
        while !party.is_empty() {
            let leader = party.remove(0);
            match leader.slot.fill(Turn::Quick(place, party)) {
                // It gave up meanwhile: the next one leads.
                Err(Turn::Quick(back, others)) => (place, party) = (back, others),
                _ => return,
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

    type Words = Arc<Batcher<Word, usize>>;

    /// Nobody is patient, and there is one request at a time.
    fn words() -> Words {
        Batcher::new((0, 1))
    }

    /// Somebody who asks, so that all others get in line.
    fn take_place(words: &Words) -> Place<Word, usize> {
        let turn = words
            .enter()
            .take_turn(|| Word("a"), &Clock::system(), Deadline::NEVER);
        match turn {
            Turn::Quick(place, others) if others.is_empty() => place,
            _ => panic!("it has to wait"),
        }
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
            let turn = line.enter().take_turn(|| Word(word), &clock, deadline);
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

    #[test]
    fn a_few_callers_ask_by_themselves() {
        let words: Words = Batcher::new((4, 1));
        let few: Vec<_> = (0..4).map(|_| words.enter()).collect();
        let turn = |caller: &Caller<'_, _, _>| {
            caller.take_turn(|| Word("a"), &Clock::system(), Deadline::NEVER)
        };
        assert!(
            few.iter()
                .all(|caller| matches!(turn(caller), Turn::Patient))
        );
        assert!(matches!(turn(&words.enter()), Turn::Quick(..)));
        drop(few);
        assert!(matches!(turn(&words.enter()), Turn::Patient));
        assert_eq!(words.line.lock().quick, 0);
    }

    #[test]
    fn those_in_line_ask_together_when_a_place_is_free() {
        let words = words();
        let place = take_place(&words);
        let turns = ["c1", "c2", "c3"].map(|word| wait_for(&words, word));
        drop(place);
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
        drop(take_place(&words));
    }

    #[test]
    fn only_questions_of_one_kind_go_together() {
        let words = words();
        let place = take_place(&words);
        let turns = ["c1", "d1", "c2"].map(|word| wait_for(&words, word));
        drop(place);
        for turn in turns {
            let Ok(Turn::Quick(_, others)) = turn.recv() else {
                panic!("it does not lead");
            };
            assert!(others.is_empty());
        }
    }

    #[test]
    fn one_who_has_led_leaves_the_rest_to_the_next_in_line() {
        let words = words();
        let place = take_place(&words);
        let turns = ["c1", "d1", "c2"].map(|word| wait_for(&words, word));
        let mut place = Some(place);
        for turn in turns {
            drop(place.take());
            let Ok(Turn::Quick(next, others)) = turn.recv() else {
                panic!("it does not lead");
            };
            assert!(others.is_empty(), "it asks for others than its own kind");
            place = Some(next);
        }
    }

    #[test]
    fn who_is_forgotten_asks_by_itself() {
        let words = words();
        let place = take_place(&words);
        let turns = ["c1", "c2"].map(|word| wait_for(&words, word));
        drop(place);
        drop(turns[0].recv()); // the leader was lost, and its party with it
        assert!(matches!(turns[1].recv(), Ok(Turn::Alone)));
        assert!(words.line.lock().waiting.is_empty());
        drop(take_place(&words));
    }

    #[test]
    fn who_gives_up_leaves_the_line_and_never_leads() {
        let words = words();
        let place = take_place(&words);
        let clock = Clock::manual();
        let deadline = Deadline::after(clock.now(), Duration::from_secs(1));
        let late = get_in_line(&words, "c1", deadline, &clock);
        let next = wait_for(&words, "c2");
        clock.advance(Duration::from_secs(2));
        assert!(matches!(late.recv(), Ok(Turn::Late)));
        assert_eq!(words.line.lock().waiting.len(), 1);
        drop(place);
        let Ok(Turn::Quick(_place, others)) = next.recv() else {
            panic!("the next one does not lead");
        };
        assert!(others.is_empty());
    }

    #[test]
    fn a_place_that_nobody_takes_goes_on() {
        let words = words();
        let place = take_place(&words);
        let turns = ["c1", "c2"].map(|word| wait_for(&words, word));
        // As if its time were up just now: its slot is closed, but it is still in line.
        words.line.lock().waiting[0].slot.close();
        drop(place);
        let Ok(Turn::Quick(_place, others)) = turns[1].recv() else {
            panic!("the next one does not lead");
        };
        assert!(others.is_empty());
    }
}
