//! Capacity: how many calls a worker can carry, by what those that talk cost. Pure.
//!
//! The load of a call shows when the call talks, seconds after it was admitted. So every call of a worker counts from its
//! admission on, and one that does not talk yet counts as much as one that does.

use std::collections::VecDeque;
use std::time::Duration;

/// What new calls may fill of the limit. The cost of a call is an estimate, and its error must not harm those who talk.
const FILLED: f64 = 0.95;
/// The cost of a call until measurements say better: that of one with a PCM agent on a slow core.
const FIRST_COST: f64 = 0.005;
/// Measurements outweigh [`FIRST_COST`] from three seconds of ten talking calls on. See [`Evidence`] for the unit.
const FIRST_WEIGHT: f64 = 300.0;
/// Calls of another kind come, so new measurements must outweigh the earlier ones: those of two seconds of a hundred
/// talking calls do.
const MOST_WEIGHT: f64 = 20_000.0;
/// The time in which a measurement loses most of its weight (all but 1/e) if no others follow.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(300);
/// The median of so many periods counts: a hiccup shorter than half of them changes nothing.
const PERIODS: usize = 7;

/// The capacity of one worker.
#[derive(Debug)]
pub struct Capacity {
    /// The most that all calls together may take of a core, from 0 to 1.
    limit: f64,
    recent: VecDeque<Sample>,
    talked_before: usize,
    evidence: Evidence,
}

/// One period.
#[derive(Clone, Copy, Debug, Default)]
struct Sample {
    /// The share of a core.
    share: f64,
    /// The mean number of talking calls.
    talking: f64,
}

/// The line through the origin that fits the samples best (least squares): many calls tell the cost of one more
/// exactly than few, beside the worker's own cost. Weights are calls² × seconds.
#[derive(Clone, Copy, Debug, Default)]
struct Evidence {
    share_by_talking: f64,
    weight: f64,
}

impl Capacity {
    /// That of a worker without calls. From a limit of 1 on there is none.
    pub fn new(limit: f64) -> Self {
        let recent = std::iter::repeat_n(Sample::default(), PERIODS).collect();
        Self { limit, recent, talked_before: 0, evidence: Evidence::default() }
    }

    /// Takes the measurement of a period: the share of a core that the worker took, and the calls that talk at its end.
    pub fn measure(&mut self, share: f64, talking: usize, period: Duration) {
        let before = std::mem::replace(&mut self.talked_before, talking);
        self.recent.pop_front();
        self.recent.push_back(Sample { share, talking: (before + talking) as f64 / 2.0 });
        let usual = self.usual();
        self.evidence.add(usual, period);
    }

    /// The number of calls up to which new ones may be admitted.
    pub fn calls(&self) -> usize {
        if self.limit >= 1.0 {
            return usize::MAX;
        }
        let usual = self.usual();
        let more = (self.limit * FILLED - usual.share) / self.evidence.cost();
        // A worker without calls takes one, whatever the last ones cost.
        (usual.talking + more).max(1.0) as usize
    }

    fn usual(&self) -> Sample {
        let median = |of: fn(&Sample) -> f64| {
            let mut values: Vec<f64> = self.recent.iter().map(of).collect();
            values.sort_by(f64::total_cmp);
            values[PERIODS / 2]
        };
        Sample { share: median(|sample| sample.share), talking: median(|sample| sample.talking) }
    }
}

impl Evidence {
    fn add(&mut self, Sample { share, talking }: Sample, period: Duration) {
        let weight = talking * talking * period.as_secs_f64();
        let kept = (-period.div_duration_f64(FORGOTTEN_AFTER)).exp();
        let kept = kept.min(((MOST_WEIGHT - weight) / self.weight.max(1.0)).max(0.0));
        self.share_by_talking = self.share_by_talking * kept + share * talking * period.as_secs_f64();
        self.weight = self.weight * kept + weight;
    }

    /// The share of a core that one more call takes; never zero.
    fn cost(&self) -> f64 {
        (FIRST_COST * FIRST_WEIGHT + self.share_by_talking) / (FIRST_WEIGHT + self.weight)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PERIOD: Duration = Duration::from_millis(250);
    const LIMIT: f64 = 0.9;
    /// The cost of a call with a PCM agent, and with an Opus agent.
    const PCM: f64 = 0.008;
    const RELAYED: f64 = 0.0015;

    /// A core, and calls that talk some periods after they were admitted.
    struct Core {
        capacity: Capacity,
        /// The cost of a talking call.
        cost: f64,
        /// Periods from admission to talking.
        connects_in: usize,
        connecting: VecDeque<usize>,
        talking: usize,
        rejected: usize,
    }

    impl Core {
        fn new(cost: f64, connects_in: usize) -> Self {
            let connecting = std::iter::repeat_n(0, connects_in).collect();
            Self { capacity: Capacity::new(LIMIT), cost, connects_in, connecting, talking: 0, rejected: 0 }
        }

        /// One that has carried so many calls for a while.
        fn warm(cost: f64, connects_in: usize, calls: usize) -> Self {
            let mut core = Self::new(cost, connects_in);
            core.pass(1, calls);
            core.pass(120, 0);
            assert_eq!((core.talking, core.rejected), (calls, 0));
            core
        }

        fn calls(&self) -> usize {
            self.talking + self.connecting.iter().sum::<usize>()
        }

        /// The calls that fill the core.
        fn carries(&self) -> usize {
            (LIMIT * FILLED / self.cost) as usize
        }

        /// Periods with so many new calls each.
        fn pass(&mut self, periods: usize, arriving: usize) {
            for _ in 0..periods {
                let before = self.calls();
                let admitted = arriving.min(self.capacity.calls().saturating_sub(before));
                self.rejected += arriving - admitted;
                self.connecting.push_back(admitted);
                let talked = self.talking;
                self.talking += self.connecting.pop_front().unwrap_or_default();
                let share = (self.talking + talked) as f64 / 2.0 * self.cost + self.connecting.len() as f64 * 0.0001;
                self.capacity.measure(share.min(1.0), self.talking, PERIOD);
            }
        }

        fn hang_up(&mut self) {
            self.talking = 0;
            self.connecting = std::iter::repeat_n(0, self.connects_in).collect();
        }
    }

    #[test]
    fn of_a_burst_as_many_are_admitted_as_the_core_carries() {
        let mut core = Core::warm(PCM, 12, 40);
        core.pass(1, 350);
        assert!((100..=110).contains(&core.calls()), "{} of {}", core.calls(), core.carries());
        // At an even rate too, and no more are admitted once these talk.
        let mut even = Core::warm(PCM, 12, 40);
        even.pass(70, 5);
        for core in [&mut core, &mut even] {
            core.pass(40, 5);
            assert!((100..=110).contains(&core.calls()), "{} of {}", core.calls(), core.carries());
        }
    }

    #[test]
    fn calls_of_unknown_cost_count_as_dear_until_they_talk() {
        let mut core = Core::new(RELAYED, 8);
        core.pass(1, 500);
        assert_eq!(core.calls(), 171);
        core.pass(20, 0);
        core.pass(20, 50);
        assert!((525..=580).contains(&core.calls()), "{} of {}", core.calls(), core.carries());
    }

    #[test]
    fn a_hundred_cheap_calls_a_second_are_all_admitted() {
        let mut core = Core::new(0.0005, 2);
        core.pass(40, 25);
        assert_eq!((core.calls(), core.rejected), (1000, 0));
    }

    #[test]
    fn the_cost_follows_calls_of_another_kind() {
        let mut core = Core::warm(RELAYED, 4, 170);
        core.hang_up();
        core.cost = PCM;
        core.pass(1, 60);
        core.pass(40, 0);
        core.pass(40, 10);
        assert!((95..=115).contains(&core.calls()), "{} of {}", core.calls(), core.carries());
        core.hang_up();
        core.cost = RELAYED;
        core.pass(1, 90);
        core.pass(60, 0);
        core.pass(60, 20);
        assert!((500..=600).contains(&core.calls()), "{} of {}", core.calls(), core.carries());
    }

    #[test]
    fn a_hiccup_rejects_nobody() {
        let mut core = Core::warm(PCM, 0, 100);
        for _ in 0..10 {
            for _ in 0..3 {
                core.capacity.measure(1.0, 100, PERIOD);
                assert!(core.capacity.calls() > 102, "{}", core.capacity.calls());
            }
            core.pass(4, 0);
        }
    }

    #[test]
    fn a_slow_start_is_forgotten() {
        let mut capacity = Capacity::new(LIMIT);
        // The worker's one call takes the whole core for a minute.
        (0..240).for_each(|_| capacity.measure(1.0, 1, PERIOD));
        assert_eq!(capacity.calls(), 1);
        (0..PERIODS).for_each(|_| capacity.measure(0.0, 0, PERIOD));
        assert!(capacity.calls() >= 4, "{}", capacity.calls());
        (0..3600 * 4).for_each(|_| capacity.measure(0.0, 0, PERIOD));
        assert!(capacity.calls() > 160, "{}", capacity.calls());
    }

    #[test]
    fn a_limit_of_the_whole_core_is_none() {
        let mut capacity = Capacity::new(1.0);
        (0..100).for_each(|_| capacity.measure(1.0, 10, PERIOD));
        assert_eq!(capacity.calls(), usize::MAX);
    }

    proptest! {
        #[test]
        fn a_core_that_knows_its_calls_is_filled_and_not_overfilled(
            cost in 0.001..0.05,
            connects_in in 0_usize..16,
            arriving in 1_usize..200,
        ) {
            let known = ((LIMIT / cost / 3.0) as usize).min(150);
            let mut core = Core::warm(cost, connects_in, known);
            for _ in 0..400 {
                core.pass(1, arriving);
                let most = core.carries() as f64 * 1.15 + 2.0;
                prop_assert!(core.calls() as f64 <= most, "{} of {}", core.calls(), core.carries());
            }
            let wanted = core.carries().min(known + 400 * arriving);
            prop_assert!(core.calls() as f64 >= 0.9 * wanted as f64 - 2.0, "{} of {}", core.calls(), core.carries());
        }

        #[test]
        fn a_worker_without_calls_takes_one(measured in proptest::collection::vec((0.0..1.0, 0_usize..2000), 0..200)) {
            let mut capacity = Capacity::new(LIMIT);
            for (share, talking) in measured {
                capacity.measure(share, talking, PERIOD);
                prop_assert!(capacity.calls() >= 1);
            }
        }
    }
}
