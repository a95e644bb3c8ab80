//! Goal: what the recorder writes plays in a browser: as long as it is, from the middle, near its end, over a gap and over
//! changes of the picture's size, closed and while it grows.
//! Method: films by ffmpeg's encoders through our writers, one <video> in Chromium; no node.

use serde_json::Value;
use spillway_proto::id::Kind;
use spillway_tests::browser::{Browser, Page};
use spillway_tests::film::{AV1, Film, H264, SECOND, VP8, VP9, close, film};
use spillway_tests::node::{Machine, Scratch};
use spillway_tests::wait::seconds;
use std::fs;

const PAGE: &str = "<!doctype html><title>film</title><video muted playsinline></video><script>
const video = document.querySelector('video');
const once = (name, begin) => new Promise((resolve, reject) => {
    video.addEventListener(name, resolve, { once: true });
    video.addEventListener('error', () => reject(new Error(video.error.message)), { once: true });
    begin?.();
});
window.sizes = [];
video.addEventListener('resize', () => sizes.push(video.videoWidth));
window.open_film = name => once('loadedmetadata', () => { sizes.length = 0; video.src = name; });
// The time of the picture that was shown last.
const watch = (now, facts) => { window.picture = facts.mediaTime; video.requestVideoFrameCallback(watch); };
video.requestVideoFrameCallback(watch);
window.seek = time => once('seeked', () => { video.currentTime = time; }).then(() => video.currentTime);
window.play_from = (time, rate) => once('seeked', () => { video.currentTime = time; })
    .then(() => once('ended', () => { video.playbackRate = rate; video.play(); })).then(() => video.currentTime);
// Plays it from `time` on and notes, every 20 ms, the clock and how loud it is. From a blob: who made it may listen.
window.listen_from = async (time, bytes) => {
    await open_film(URL.createObjectURL(new Blob([new Uint8Array(bytes)])));
    await once('seeked', () => { video.currentTime = time; });
    const context = new AudioContext(), analyser = context.createAnalyser();
    context.createMediaElementSource(video).connect(analyser).connect(context.destination);
    analyser.fftSize = 512;
    window.heard = [];
    const samples = new Float32Array(512), note = () => {
        analyser.getFloatTimeDomainData(samples);
        heard.push([video.currentTime, Math.sqrt(samples.reduce((sum, value) => sum + value * value, 0) / 512)]);
    };
    video.muted = false;
    const timer = setInterval(note, 20);
    await once('ended', () => video.play());
    clearInterval(timer);
};
</script>";

struct Screen<'b> {
    page: Page<'b>,
    scratch: Scratch,
}

impl Screen<'_> {
    fn new(browser: &Browser) -> Screen<'_> {
        let scratch = Scratch::new();
        let path = scratch.0.join("film.html");
        fs::write(&path, PAGE).expect("written");
        Screen { page: browser.open(&format!("file://{}", path.display())), scratch }
    }

    /// How long the browser takes it to be; of a film that has no end yet, infinite.
    fn show(&self, film: &Film, file: &[u8]) -> f64 {
        let name = format!("film.{}", film.container().extension());
        fs::write(self.scratch.0.join(&name), file).expect("written");
        // JSON knows no infinity.
        let found = self.page.run(&format!("return open_film('{name}?' + Math.random()).then(() => video.duration)"));
        found.as_f64().unwrap_or(f64::INFINITY)
    }

    /// Goes there, and waits for the picture of that time.
    fn seek(&self, film: &Film, time: f64) {
        let clock = number(&self.page.run(&format!("return seek({time})")));
        assert!((clock - time).abs() < 0.001, "{clock} at {time}");
        let wanted = picture_at(film, time);
        let is_there = format!("return Math.abs(window.picture - {wanted}) < 0.04");
        self.page.until(&format!("the picture of {wanted} is shown at {time}"), seconds(5), &is_there);
    }

    fn width(&self) -> Value {
        self.page.run("return video.videoWidth")
    }

    fn play_from(&self, time: f64, rate: u32) -> f64 {
        self.page.run(&format!("window.ended = null; play_from({time}, {rate}).then(time => window.ended = time, error => window.ended = String(error))"));
        number(&self.page.until("the film is over", seconds(30), "return window.ended"))
    }
}

/// Times at which it was loud, by the film's clock.
fn loud(page: &Page, film: &[u8], from: f64) -> Vec<f64> {
    page.run(&format!("window.over = null; listen_from({from}, {film:?}).then(() => window.over = 'yes', error => window.over = String(error))"));
    assert_eq!(page.until("the film is over", seconds(30), "return window.over"), "yes");
    let heard = page.run("return window.heard");
    let pairs = heard.as_array().expect("a list").iter().map(|pair| (number(&pair[0]), number(&pair[1])));
    pairs.filter(|(_, volume)| *volume > 0.01).map(|(time, _)| time).collect()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value}"))
}

/// The last picture that begins at `time` or before.
fn picture_at(film: &Film, time: f64) -> f64 {
    let times = film.samples.iter().filter(|sample| sample.kind == Kind::Video).map(|sample| sample.time_ns as f64 / SECOND as f64);
    times.filter(|at| *at <= time + 0.001).fold(0.0, f64::max)
}

#[test]
fn closed_films_play_over_changes_of_size_and_seek() {
    let _machine = Machine::busy();
    let browser = Browser::start();
    let screen = Screen::new(&browser);
    for (name, encoder) in [("H264", H264), ("VP9", VP9), ("AV1", AV1), ("VP8", VP8)] {
        let part = |size: &str| film(Some((encoder, size)), true, 2);
        let whole = part("320x180").then(part("640x360"), 0).then(part("160x90"), 0);
        let growing = whole.record().0;
        let closed = close(growing.clone()).expect("something is in it");
        let length = whole.end() as f64 / SECOND as f64;
        let duration = screen.show(&whole, &closed);
        assert!((duration - length).abs() < 0.03, "{name}: {duration} of {length} s");
        for (time, width) in [(length / 2.0, 640), (length - 0.3, 160), (0.5, 320)] {
            screen.seek(&whole, time);
            assert_eq!(screen.width(), width, "{name} at {time}");
        }
        let end = screen.play_from(1.5, 4);
        assert!((end - length).abs() < 0.05, "{name}: over at {end} of {length}");
        let sizes = screen.page.run("return sizes").to_string();
        assert!(sizes.ends_with("320,640,160]"), "{name}: {sizes}");
        // While it grows it plays from its beginning to what there is.
        screen.show(&whole, &growing);
        let end = screen.play_from(0.0, 4);
        assert!((end - length).abs() < 0.1, "{name}, growing: over at {end} of {length}");
    }
    let complaints = browser.complaints();
    assert!(complaints.is_empty(), "{complaints:?}");
}

#[test]
fn a_gap_is_as_long_as_it_was_and_pictures_come_with_their_sound() {
    let _machine = Machine::busy();
    let browser = Browser::start();
    let screen = Screen::new(&browser);
    for encoder in [H264, VP8] {
        let part = || film(Some((encoder, "320x180")), true, 2);
        let whole = part().then(part(), 3 * SECOND);
        let gap = (2.0, 5.0);
        let closed = close(whole.record().0).expect("something is in it");
        let length = whole.end() as f64 / SECOND as f64;
        assert!((screen.show(&whole, &closed) - length).abs() < 0.03);
        // In the gap the last picture stays.
        assert!(picture_at(&whole, 4.0) < 2.1);
        screen.seek(&whole, 4.0);
        screen.seek(&whole, length - 0.5);
        // The tone stops where the gap begins, and comes again where it ends: not before.
        let page = Screen::new(&browser);
        let loud = loud(&page.page, &closed, 1.0);
        let of = |from: f64, to: f64| loud.iter().filter(|time| (from..to).contains(*time)).count();
        assert!(of(1.0, 1.9) > 10 && of(gap.1 + 0.3, length) > 10, "{loud:?}");
        assert_eq!(of(gap.0 + 0.3, gap.1 - 0.1), 0, "silent between {gap:?}: {loud:?}");
    }
}
