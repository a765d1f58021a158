//! What goes wrong, and how often: drawn once for a seed, so that some seeds are calm, some have one trouble, some have many.
//! Nothing that the protocol assumes is broken: an acknowledged slot of a log stays, and creation is one moment.

use std::time::Duration;

use holdfast::store::error::StoreErrorKind;
use holdfast::store::meter::Operation;

use crate::simulation::dice::Dice;

/// What becomes of one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is carried out and answered.
    Serve,
    /// It is refused, and nothing was done.
    Refuse(StoreErrorKind),
    /// It is carried out, and the answer is an error.
    Lose(StoreErrorKind),
    /// It may arrive some day; no answer ever comes.
    Silence,
    /// A put that is acknowledged and not carried out.
    Drop,
    /// A read with this bit turned.
    Flip(u64),
    /// Half of it: a listing that breaks off, a delete of the first half.
    Half,
    /// A listing as it was so many steps ago.
    Old(u64),
}

/// How often each trouble comes, of ten thousand calls (or slices of work).
#[derive(Clone, Debug, Default)]
pub struct Weather {
    refuse: u64,
    lose: u64,
    silence: u64,
    drop: u64,
    flip: u64,
    half: u64,
    old: u64,
    taken: u64,
    cut: u64,
    kept: u64,
    slow: u64,
    /// A process ends, of slices.
    pub kill: u64,
    /// A process stands still while weeks pass, of slices.
    pub freeze: u64,
    /// A store does not answer for a while, of slices.
    pub outage: u64,
    /// A store is full for a while, of slices.
    pub full: u64,
    /// The provider refuses one client from now on, of slices.
    pub denied: u64,
    /// An object rots, of slices.
    pub rot: u64,
    /// What was sent and never answered arrives, of slices.
    pub arrive: u64,
}

impl Weather {
    /// The weather of a seed. `may_rot` where every snapshot that counts lies at two replicas at least.
    pub fn draw(dice: &mut Dice, may_rot: bool) -> Weather {
        let mut weather = Weather { arrive: 500, ..Weather::default() };
        if dice.below(8) == 0 {
            return weather;
        }
        let calls = [
            &mut weather.refuse,
            &mut weather.lose,
            &mut weather.silence,
            &mut weather.drop,
            &mut weather.flip,
            &mut weather.half,
            &mut weather.old,
            &mut weather.taken,
            &mut weather.cut,
            &mut weather.kept,
            &mut weather.slow,
        ];
        for rate in calls {
            *rate = dice.pick(&[0, 0, 10, 40, 150]);
        }
        // A listing is old often, where it is at all.
        weather.old *= 20;
        let slices = [&mut weather.kill, &mut weather.freeze, &mut weather.outage, &mut weather.full, &mut weather.denied];
        for rate in slices {
            *rate = dice.pick(&[0, 0, 5, 20, 60]);
        }
        if may_rot && dice.below(3) == 0 {
            weather.rot = 30;
        }
        weather
    }

    /// What becomes of a call.
    pub fn fate(&self, dice: &mut Dice, operation: Operation, name: &str) -> Fate {
        let kinds = [
            StoreErrorKind::Unavailable,
            StoreErrorKind::Unavailable,
            StoreErrorKind::TimedOut,
            StoreErrorKind::Throttled(None),
            StoreErrorKind::Throttled(Some(Duration::from_secs(20))),
        ];
        let log = name.starts_with("log/") || name.starts_with("checkpoints/") || name == "descriptor";
        let drawn = dice.below(10_000);
        let mut end = 0;
        let mut is = |rate: u64| {
            let begin = end;
            end += rate;
            (begin..end).contains(&drawn)
        };
        if is(self.refuse) {
            return Fate::Refuse(dice.pick(&kinds));
        }
        if is(self.lose) {
            return Fate::Lose(dice.pick(&kinds));
        }
        if is(self.silence) {
            return Fate::Silence;
        }
        let (put, get) = (operation == Operation::Put, operation == Operation::Get);
        if is(self.drop) && put && !log {
            return Fate::Drop;
        }
        if is(self.taken) && put && name != "descriptor" {
            let taken = StoreErrorKind::AlreadyExists;
            return if dice.below(2) == 0 { Fate::Refuse(taken) } else { Fate::Lose(taken) };
        }
        if is(self.flip) && get {
            return Fate::Flip(dice.draw());
        }
        if is(self.cut) && get {
            return Fate::Refuse(StoreErrorKind::Corrupt);
        }
        if is(self.kept) && operation == Operation::Delete {
            return Fate::Refuse(StoreErrorKind::Denied);
        }
        if is(self.half) && matches!(operation, Operation::List | Operation::Delete) {
            return Fate::Half;
        }
        if operation == Operation::List && dice.happens(self.old) {
            return Fate::Old(1 + dice.below(400));
        }
        Fate::Serve
    }

    /// How long a call is on its way.
    pub fn latency(&self, dice: &mut Dice) -> Option<Duration> {
        dice.happens(self.slow).then(|| Duration::from_millis(1 + dice.below(20_000)))
    }
}
