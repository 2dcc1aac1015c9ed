/// Text out of symbols one by one, which cost the same however many there were.
pub(super) struct TextStream<D> {
    decode: D,
    /// The symbols whose text was given out last, and those whose text was not yet. The former stay because
    /// decoders look back: most leave out a space at the beginning.
    ids: Vec<u32>,
    /// How many of `ids` are the former.
    given: usize,
    /// Their text.
    text: String,
}

impl<E, D: FnMut(&[u32]) -> Result<String, E>> TextStream<D> {
    /// Goes on after the text of `prompt`.
    pub(super) fn new(prompt: &[u32], mut decode: D) -> Result<Self, E> {
        Ok(Self {
            text: decode(prompt)?,
            decode,
            ids: prompt.to_vec(),
            given: prompt.len(),
        })
    }

    /// The text that a symbol adds: nothing as long as its last character is not whole.
    pub(super) fn push(&mut self, id: u32) -> Result<String, E> {
        self.ids.push(id);
        let text = (self.decode)(&self.ids)?;
        if text == self.text || text.ends_with('\u{fffd}') {
            return Ok(String::new());
        }
        let new = match text.strip_prefix(&self.text) {
            Some(new) => new.to_string(),
            // A symbol may change the text of those before it, which cannot be taken back.
            None => (self.decode)(&self.ids[self.given..])?,
        };
        self.ids.drain(..self.given);
        self.given = self.ids.len();
        self.text = (self.decode)(&self.ids)?;
        Ok(new)
    }
}

/// Text whose symbols are the bytes of UTF-8.
#[cfg(test)]
pub(super) fn lossy(ids: &[u32]) -> Result<String, Box<dyn std::error::Error + Send + Sync>> {
    let bytes: Vec<u8> = ids.iter().map(|&id| id as u8).collect();
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    /// What each of the bytes adds.
    fn pieces(prompt: &str, bytes: &[u8]) -> Vec<String> {
        let prompt: Vec<u32> = prompt.bytes().map(u32::from).collect();
        let mut stream = TextStream::new(&prompt, lossy).expect("a text");
        let ids = bytes.iter().copied().map(u32::from);
        ids.map(|id| stream.push(id).expect("a text")).collect()
    }

    #[test]
    fn characters_come_when_they_are_whole() {
        assert_eq!(pieces("a", "bé€".as_bytes()), ["b", "", "é", "", "", "€"]);
        let text = "Ὕδωρ 🌊, 水 – und so fort\n".repeat(3);
        assert_eq!(pieces("é", text.as_bytes()).concat(), text);
    }

    #[test]
    fn bytes_that_are_no_character_come_with_the_next_one() {
        assert_eq!(pieces("a", b"\xffb\xe2"), ["", "\u{fffd}b", ""]);
    }

    /// Words begin with a space, but not the first of those decoded together.
    #[test]
    fn spaces_between_words_stay() {
        let decode = |ids: &[u32]| -> Result<_, Infallible> {
            let words: Vec<String> = ids.iter().map(|id| format!("w{id}")).collect();
            Ok(words.join(" "))
        };
        let mut stream = TextStream::new(&[1], decode).unwrap();
        let new: Vec<String> = (2..5).map(|id| stream.push(id).unwrap()).collect();
        assert_eq!(new, [" w2", " w3", " w4"]);
    }

    /// As decoders do that fall back to bytes.
    #[test]
    fn a_text_goes_on_after_bytes_that_spoil_those_before() {
        let decode = |ids: &[u32]| -> Result<_, Infallible> {
            let bytes = ids.iter().map(|&id| id as u8).collect();
            let spoiled = |_| "\u{fffd}".repeat(ids.len() - 1) + "!";
            Ok(String::from_utf8(bytes).unwrap_or_else(spoiled))
        };
        let mut stream = TextStream::new(&[97], decode).unwrap();
        let mut push = |id| stream.push(id).unwrap();
        assert_eq!([push(98), push(0xff)], ["b", "!"]);
    }

    #[test]
    fn symbols_without_a_text_add_none() {
        let decode = |ids: &[u32]| -> Result<_, Infallible> {
            let shown = ids.iter().filter(|&&id| id > 9);
            Ok(shown.map(|id| id.to_string()).collect::<String>())
        };
        let mut stream = TextStream::new(&[1], decode).unwrap();
        let new: Vec<String> = [2, 10, 3, 11].map(|id| stream.push(id).unwrap()).into();
        assert_eq!(new, ["", "10", "", "11"]);
    }

    #[test]
    fn the_cost_of_a_symbol_does_not_grow() {
        let mut decoded = Vec::new();
        let decode = |ids: &[u32]| {
            decoded.push(ids.len());
            lossy(ids)
        };
        let mut stream = TextStream::new(&[97; 50], decode).expect("a text");
        for id in "€".repeat(200).bytes() {
            stream.push(id.into()).expect("a text");
        }
        let (prompt, rest) = decoded.split_at(4);
        assert_eq!(prompt, [50, 51, 52, 53]);
        assert!(rest.iter().all(|&count| count <= 6), "{rest:?}");
    }
}
