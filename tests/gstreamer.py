#!/usr/bin/python3
"""GStreamer's webrtcbin as a publisher or a viewer of a Spillway room, without a screen: what tests/e2e/gstreamer.rs
runs. It speaks WHIP and WHEP itself, since the elements that do are not in Debian 12.

    gstreamer.py publish|view URL TOKEN

Prints one JSON object per line: {"connected": true}, then twice a second how many buffers came out of each decoder
(view) or went into the payloaders (publish). Ends with SIGTERM, or when the connection is lost.

Nothing of webrtcbin is changed: it shows the certificate it makes by itself, which is of RSA. A viewer's caps are as plain as
those of GStreamer's whepsrc: H264 without a packetization mode, Opus without its channels.
"""

import json
import os
import signal
import sys
import urllib.error
import urllib.request

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstSdp", "1.0")
gi.require_version("GstWebRTC", "1.0")
from gi.repository import GLib, Gst, GstSdp, GstWebRTC  # noqa: E402

CAMERA = """
videotestsrc is-live=true pattern=ball ! video/x-raw,width=640,height=360,framerate=30/1
    ! x264enc tune=zerolatency speed-preset=ultrafast key-int-max=60 bitrate=800 threads=1
    ! video/x-h264,profile=constrained-baseline ! h264parse config-interval=-1 name=video
    ! rtph264pay aggregate-mode=zero-latency
    ! application/x-rtp,media=video,encoding-name=H264,payload=96 ! webrtc.
audiotestsrc is-live=true wave=sine ! audio/x-raw,rate=48000,channels=2 ! opusenc name=audio
    ! rtpopuspay ! application/x-rtp,media=audio,encoding-name=OPUS,payload=97 ! webrtc.
"""
# What a viewer offers to receive, and what makes pictures and sound of it.
RECEIVED = {
    "H264": ("video", 90000, 102, "rtph264depay ! h264parse ! openh264dec"),
    "VP8": ("video", 90000, 103, "rtpvp8depay ! vp8dec"),
    "OPUS": ("audio", 48000, 111, "rtpopusdepay ! opusdec"),
}

counts = {}


def say(**facts):
    print(json.dumps(facts), flush=True)


def fail(reason):
    """Ends the program from any of GStreamer's threads."""
    say(error=reason)
    os._exit(1)


def count(name, pad):
    """Counts the buffers that pass a pad."""
    counts[name] = 0

    def passed(_pad, _info):
        counts[name] += 1
        return Gst.PadProbeReturn.OK

    pad.add_probe(Gst.PadProbeType.BUFFER, passed)


def post(url, token, offer):
    headers = {"Authorization": "Bearer " + token, "Content-Type": "application/sdp"}
    request = urllib.request.Request(url, offer.encode(), headers)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=10) as response:
            return response.read().decode()
    except urllib.error.HTTPError as error:
        fail(f"{error.code}: {error.read().decode()}")


def main():
    action, url, token = sys.argv[1:]
    Gst.init(None)
    loop = GLib.MainLoop()
    if action == "publish":
        pipeline = Gst.parse_launch("webrtcbin name=webrtc bundle-policy=max-bundle " + CAMERA)
    else:
        # A description of one element alone would make no pipeline.
        pipeline = Gst.Pipeline()
        pipeline.add(Gst.ElementFactory.make_with_properties(
            "webrtcbin", ["name", "bundle-policy"], ["webrtc", GstWebRTC.WebRTCBundlePolicy.MAX_BUNDLE]))
    webrtc = pipeline.get_by_name("webrtc")

    def pad_added(_webrtc, pad):
        if pad.get_direction() != Gst.PadDirection.SRC:
            return
        codec = pad.get_current_caps().get_structure(0).get_string("encoding-name")
        chain = Gst.parse_bin_from_description(
            f"queue ! {RECEIVED[codec][3]} name=decoder ! fakesink sync=false async=false", True)
        count(RECEIVED[codec][0], chain.get_by_name("decoder").get_static_pad("src"))
        pipeline.add(chain)
        chain.sync_state_with_parent()
        pad.link(chain.get_static_pad("sink"))

    webrtc.connect("pad-added", pad_added)

    def state_changed(_webrtc, _property):
        state = webrtc.get_property("connection-state").value_nick
        if state == "connected":
            say(connected=True)
        elif state in ("failed", "closed"):
            say(error=state)
            loop.quit()

    webrtc.connect("notify::connection-state", state_changed)

    def answered(answer):
        _, message = GstSdp.SDPMessage.new_from_text(answer)
        description = GstWebRTC.WebRTCSessionDescription.new(GstWebRTC.WebRTCSDPType.ANSWER, message)
        webrtc.emit("set-remote-description", description, None)

    def offered(promise):
        # The description belongs to the reply, which Python must not let go meanwhile.
        reply = promise.get_reply()
        offer = reply.get_value("offer")
        webrtc.emit("set-local-description", offer, None)
        answered(post(url, token, offer.sdp.as_text()))

    if action == "publish":
        for name in ("video", "audio"):
            count(name, pipeline.get_by_name(name).get_static_pad("src"))
    else:
        video = [codec for codec, received in RECEIVED.items() if received[0] == "video"]
        for codecs in (video, ["OPUS"]):
            caps = Gst.Caps.from_string(";".join(
                "application/x-rtp,media={0},clock-rate={1},payload={2},encoding-name={4}".format(
                    *RECEIVED[codec], codec)
                for codec in codecs))
            webrtc.emit("add-transceiver", GstWebRTC.WebRTCRTPTransceiverDirection.RECVONLY, caps)

    def negotiate(*_):
        webrtc.emit("create-offer", None, Gst.Promise.new_with_change_func(offered))
        return False

    def tell():
        say(**counts)
        return True

    bus = pipeline.get_bus()
    bus.add_signal_watch()
    bus.connect("message::error", lambda _bus, message: fail(message.parse_error()[0].message))
    GLib.timeout_add(500, tell)
    GLib.unix_signal_add(GLib.PRIORITY_DEFAULT, signal.SIGTERM, loop.quit)
    pipeline.set_state(Gst.State.PLAYING)
    GLib.timeout_add(200 if action == "view" else 500, negotiate)
    loop.run()
    pipeline.set_state(Gst.State.NULL)


main()
