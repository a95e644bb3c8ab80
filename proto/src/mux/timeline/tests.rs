//! Goal: sound and picture stay together and lengths right, whatever the publisher's clocks do.
//! Method: a publisher with three clocks (wall, camera, microphone), each off by up to 200 ppm, and a network with
//! jitter, for hours of simulated time.

use super::*;
use crate::rng::Rng;
use std::time::Duration;

const MS: i64 = 1_000_000;
const SECOND: i64 = 1_000 * MS;
const HOUR: i64 = 3_600 * SECOND;

struct Publisher {
    /// Parts per million the clocks run too fast.
    wall: i64,
    video: i64,
    audio: i64,
    /// From what happens to when it leaves, of pictures and of sound.
    video_delay: i64,
    audio_delay: i64,
    reports: bool,
}

fn skewed(time: i64, ppm: i64) -> i64 {
    time + (i128::from(time) * i128::from(ppm) / 1_000_000) as i64
}

fn ticks(time: i64, rate: i64, first: u32) -> u32 {
    first.wrapping_add((i128::from(time) * i128::from(rate) / 1_000_000_000) as u32)
}

fn ntp(time: i64) -> NtpTime {
    NtpTime(0xE800_0000_0000_0000) + Duration::from_nanos(time.unsigned_abs())
}

struct Seen {
    /// Placed time less true time.
    video: Vec<(i64, i64)>,
    audio: Vec<(i64, i64)>,
}

impl Publisher {
    /// True time, for `length`; the timeline may be committed after the first second, as a recorder does.
    fn run(&self, timeline: &mut Timeline, start: i64, length: i64, epoch: u32, rng: &mut Rng) -> Seen {
        let (first_video, first_audio) = (rng.next_u32(), rng.next_u32());
        let mut seen = Seen { video: Vec::new(), audio: Vec::new() };
        let (mut video_at, mut audio_at, mut report_at) = (0, 0, 700 * MS);
        let jitter = |rng: &mut Rng| rng.below(30 * MS as u64) as i64;
        while video_at < length || audio_at < length {
            let now = video_at.min(audio_at);
            if self.reports && now >= report_at {
                report_at = now + SECOND;
                for (kind, ppm, rate, first) in
                    [(Kind::Video, self.video, 90_000, first_video), (Kind::Audio, self.audio, 48_000, first_audio)]
                {
                    // A report is off by a few milliseconds, and on its way.
                    let off = rng.below(4 * MS as u64) as i64 - 2 * MS;
                    let mapping = SrMapping {
                        ntp: ntp(skewed(start + now, self.wall) + off),
                        timestamp: ticks(skewed(now, ppm), rate, first),
                        arrival: Time((start + now + jitter(rng)) as u64),
                    };
                    timeline.on_report(kind, epoch, &mapping);
                }
            }
            if now > 1_200 * MS {
                if !timeline.is_committed() {
                    // As a recorder does before it writes its first fragment.
                    timeline.begin_again();
                    for (kind, placed, rate, first, ppm) in [
                        (Kind::Video, &mut seen.video, 90_000, first_video, self.video),
                        (Kind::Audio, &mut seen.audio, 48_000, first_audio, self.audio),
                    ] {
                        for (at, error) in placed {
                            *error = timeline.place_again(kind, ticks(skewed(*at, ppm), rate, first)) - start - *at;
                        }
                    }
                }
                timeline.commit();
            }
            let true_time = start + now;
            if video_at <= audio_at {
                let arrival = Time((true_time + self.video_delay + jitter(rng)) as u64);
                let stamp = ticks(skewed(now, self.video), 90_000, first_video);
                let time = timeline.place(Kind::Video, epoch, 90_000, stamp, arrival);
                seen.video.push((now, time - true_time));
                // Between 60 and 5 pictures a second.
                video_at += if (now / (20 * SECOND)) % 2 == 0 { 16_666_667 } else { 33 * MS + rng.below(170 * MS as u64) as i64 };
            } else {
                let arrival = Time((true_time + self.audio_delay + jitter(rng)) as u64);
                let stamp = ticks(skewed(now, self.audio), 48_000, first_audio);
                let time = timeline.place(Kind::Audio, epoch, 48_000, stamp, arrival);
                seen.audio.push((now, time - true_time));
                audio_at += 20 * MS;
            }
        }
        seen
    }
}

/// The largest distance of sound and picture of the same moment, from `from` on.
fn apart(seen: &Seen, from: i64) -> i64 {
    let mut audio = seen.audio.iter();
    let mut sound = audio.next().unwrap();
    let mut most = 0;
    for (at, error) in seen.video.iter().filter(|(at, _)| *at >= from) {
        while sound.0 < *at {
            match audio.next() {
                Some(next) => sound = next,
                None => return most,
            }
        }
        most = most.max((error - sound.1).abs());
    }
    most
}

#[test]
fn an_hour_with_clocks_200_ppm_off_is_an_hour_with_sound_and_picture_together() {
    let mut rng = Rng::new(5);
    for (wall, video, audio) in [(200, 200, 200), (-200, -200, -200), (200, -200, 200), (0, 200, -200), (-200, 200, 200)] {
        let publisher = Publisher { wall, video, audio, video_delay: 45 * MS, audio_delay: 15 * MS, reports: true };
        let mut timeline = Timeline::default();
        let seen = publisher.run(&mut timeline, 77 * SECOND, HOUR, 1, &mut rng);
        let most = apart(&seen, 0);
        assert!(most <= 40 * MS, "{wall} {video} {audio}: {} ms apart", most / MS);
        assert!(apart(&seen, 20 * SECOND) <= 10 * MS, "later: {} us", apart(&seen, 20 * SECOND) / 1_000);
        for placed in [&seen.video, &seen.audio] {
            let errors: Vec<i64> = placed.iter().map(|(_, error)| *error).collect();
            let (first, last) = (errors[100], errors[errors.len() - 1]);
            assert!((last - first).abs() <= 40 * MS, "{wall} {video} {audio}: an hour is off by {} us", (last - first) / 1_000);
            let steps = placed.windows(2).map(|pair| pair[1].0 + pair[1].1 - pair[0].0 - pair[0].1);
            assert!(steps.min().unwrap() > 0, "time goes on");
        }
    }
}

#[test]
fn without_reports_arrivals_are_what_is_known() {
    let mut rng = Rng::new(6);
    let publisher = Publisher { wall: 0, video: -200, audio: 200, video_delay: 30 * MS, audio_delay: 10 * MS, reports: false };
    let seen = publisher.run(&mut Timeline::default(), 5 * SECOND, HOUR, 1, &mut rng);
    assert!(apart(&seen, 0) <= 40 * MS, "{}", apart(&seen, 0) / MS);
    let last = seen.audio.last().unwrap().1 - seen.audio[100].1;
    assert!(last.abs() <= 40 * MS, "{}", last / MS);
}

#[test]
fn another_publisher_goes_on_by_our_clock() {
    let mut rng = Rng::new(7);
    let mut timeline = Timeline::default();
    let publisher = |wall| Publisher { wall, video: wall, audio: -wall, video_delay: 40 * MS, audio_delay: 20 * MS, reports: true };
    let first = publisher(200).run(&mut timeline, 50 * SECOND, 300 * SECOND, 1, &mut rng);
    let second = publisher(-200).run(&mut timeline, 362 * SECOND, 300 * SECOND, 2, &mut rng);
    let change = second.audio[0].1 - first.audio.last().unwrap().1;
    assert!(change.abs() <= 60 * MS, "{}", change / MS);
    assert!(apart(&second, 20 * SECOND) <= 10 * MS);
    let end = second.audio.last().unwrap().1 - first.audio[100].1;
    assert!(end.abs() <= 40 * MS, "{} ms", end / MS);
}

#[test]
fn reports_that_cannot_be_are_not_believed() {
    let mut timeline = Timeline::default();
    for number in 0..500u32 {
        let at = i64::from(number) * 20 * MS + 60 * SECOND;
        let time = timeline.place(Kind::Audio, 1, 48_000, number * 960, Time(at as u64));
        assert!((time - at).abs() < MS, "{number}");
        let time = timeline.place(Kind::Video, 1, 90_000, number * 1_800, Time(at as u64));
        assert!((time - at).abs() < MS, "{number}");
        timeline.commit();
        // The picture's wall clock is a minute ahead.
        timeline.on_report(Kind::Audio, 1, &SrMapping { ntp: ntp(at), timestamp: number * 960, arrival: Time(0) });
        timeline.on_report(Kind::Video, 1, &SrMapping { ntp: ntp(at + 60 * SECOND), timestamp: number * 1_800, arrival: Time(0) });
    }
}

#[test]
fn timestamps_wrap_and_pictures_may_come_in_another_order() {
    let mut timeline = Timeline::default();
    let first = u32::MAX - 90_000;
    let order = [0u32, 3, 1, 2, 6, 4, 5, 90, 93, 91, 92];
    let times: Vec<i64> = order
        .iter()
        .enumerate()
        .map(|(place, number)| {
            let arrival = Time((60 * SECOND + place as i64 * 33 * MS + i64::from(*number > 10) * 2_800 * MS) as u64);
            let time = timeline.place(Kind::Video, 1, 90_000, first.wrapping_add(number * 3_000), arrival);
            timeline.commit();
            time
        })
        .collect();
    let mut sorted: Vec<(u32, i64)> = order.into_iter().zip(times).collect();
    sorted.sort();
    assert!(sorted.windows(2).all(|pair| pair[1].1 > pair[0].1), "{sorted:?}");
}
