//! The names of ANA states: the reference's, and two that the reference does not accept.

use super::params::AnaState as Word;
use crate::model::AnaState;

impl From<Word> for AnaState {
    fn from(word: Word) -> Self {
        match word {
            Word::Optimized => Self::Optimized,
            Word::NonOptimized => Self::NonOptimized,
            Word::Inaccessible => Self::Inaccessible,
            Word::PersistentLoss => Self::PersistentLoss,
            Word::Change => Self::Change,
        }
    }
}

/// The name of a state.
pub(crate) fn ana_word(state: AnaState) -> &'static str {
    let word = match state {
        AnaState::Optimized => Word::Optimized,
        AnaState::NonOptimized => Word::NonOptimized,
        AnaState::Inaccessible => Word::Inaccessible,
        AnaState::PersistentLoss => Word::PersistentLoss,
        AnaState::Change => Word::Change,
    };
    word.as_str()
}
