use std::ops::Range;

/// Which keys the queries of each row may see by their positions.
#[derive(Debug, Clone)]
pub(crate) struct Reach {
    pub causal: bool,
    pub window: Option<usize>,
    /// For each row, the index of the key at which its first query stands.
    pub offsets: Vec<isize>,
    /// How many keys each row has.
    pub keys: Vec<usize>,
}

impl Reach {
    /// The keys that query `i` of row `b` may see.
    #[inline]
    pub fn range(&self, b: usize, i: usize) -> Range<usize> {
        let keys = self.keys[b];
        let at = self.offsets[b] + i as isize;
        let clip = |index: isize| index.clamp(0, keys as isize) as usize;
        let window = self.window.map(|window| window as isize);
        let low = window.map_or(0, |window| clip(at - window + 1));
        let high = match (self.causal, window) {
            (true, _) => clip(at + 1),
            (false, Some(window)) => clip(at + window),
            (false, None) => keys,
        };
        low..high.max(low)
    }

    /// Whether every query of every row sees all of `time` keys.
    pub fn is_all(&self, time: usize) -> bool {
        !self.causal && self.window.is_none() && self.keys.iter().all(|&keys| keys == time)
    }
}

#[cfg(test)]
mod tests {
    use super::Reach;

    #[test]
    fn a_window_counts_the_query_s_own_key() {
        let reach = |causal| Reach {
            causal,
            window: Some(2),
            offsets: vec![1, -2],
            keys: vec![5, 3],
        };
        let ranges = |reach: &Reach, b| (0..4).map(|i| reach.range(b, i)).collect::<Vec<_>>();
        assert_eq!(ranges(&reach(true), 0), [0..2, 1..3, 2..4, 3..5]);
        assert_eq!(ranges(&reach(false), 0), [0..3, 1..4, 2..5, 3..5]);
        assert_eq!(ranges(&reach(true), 1), [0..0, 0..0, 0..1, 0..2]);
    }
}
