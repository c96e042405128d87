//! Writing to the terminal: a block of lines that is redrawn in place.

use std::io::{self, IsTerminal, Write};

use super::{screen::Size, text::Line};

/// A terminal whose cursor is hidden while this lives.
#[derive(Debug)]
pub(super) struct Terminal {
    colour: bool,
    drawn: usize,
    size: Size,
}

impl Terminal {
    /// Takes standard output when it is a terminal that understands cursor movement.
    pub(super) fn open() -> Option<Self> {
        let dumb = std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb");
        if dumb || !io::stdout().is_terminal() {
            return None;
        }
        // https://no-color.org: set to anything but nothing.
        let colour = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Some(Self { colour, drawn: 0, size: size() })
    }

    /// Draws the lines over the ones drawn before, in one write.
    pub(super) fn draw(&mut self, lines: &[Line], size: Size) -> io::Result<()> {
        let resized = self.size != size;
        self.size = size;
        let frame = frame(lines, if resized { None } else { Some(self.drawn) }, self.colour);
        self.drawn = lines.len();
        let mut out = io::stdout().lock();
        out.write_all(frame.as_bytes())?;
        out.flush()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Also takes the `^C` away that the terminal shows for Ctrl-C. Nobody is left to tell when it fails.
        let mut out = io::stdout().lock();
        drop(out.write_all(b"\r\x1b[K\x1b[?25h").and_then(|()| out.flush()));
    }
}

/// One frame. `over` is how many lines the last one had; `None` clears the screen, because after a change of
/// size nobody knows where the old lines are.
fn frame(lines: &[Line], over: Option<usize>, colour: bool) -> String {
    let mut frame = String::from("\x1b[?25l");
    match over {
        None => frame.push_str("\x1b[2J\x1b[H"),
        Some(0) => frame.push('\r'),
        Some(up) => frame.extend(["\r\x1b[", &up.to_string(), "A"]),
    }
    for line in lines {
        frame.extend([&line.render(colour), "\x1b[K\r\n"]);
    }
    frame.push_str("\x1b[J");
    frame
}

/// How large standard output's terminal is now; 80 by 24 when it does not say.
pub(super) fn size() -> Size {
    match rustix::termios::tcgetwinsize(io::stdout()) {
        Ok(size) if size.ws_col > 0 && size.ws_row > 0 => {
            Size { columns: size.ws_col.into(), rows: size.ws_row.into() }
        }
        _ => Size { columns: 80, rows: 24 },
    }
}

#[cfg(test)]
mod tests {
    use super::{super::text::Tone, *};

    #[test]
    fn a_frame_goes_over_the_last_one() {
        let lines = [Line::default().then(Tone::Bad, "x"), Line::default()];
        assert_eq!(frame(&lines, Some(0), false), "\x1b[?25l\rx\x1b[K\r\n\x1b[K\r\n\x1b[J");
        assert!(frame(&lines, Some(5), false).starts_with("\x1b[?25l\r\x1b[5A"));
        assert!(frame(&lines, None, true).starts_with("\x1b[?25l\x1b[2J\x1b[H\x1b[31mx"));
    }
}
