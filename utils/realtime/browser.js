// The browser's side of BrowserCamera: asks for the camera, sends small frames to the kernel one
// at a time, and draws what comes back over the frame that it is about: over the running video,
// the boxes of a face that moves would trail behind it.

const JPEG_QUALITY = 0.8;
const SPEAK_EVERY = 2000; // milliseconds: a screen reader needs its time for a sentence
const PATIENCE = 10000; // milliseconds: a kernel that was started anew, or is busy, does not answer
const SILENCE = "The kernel does not answer: wait until it is idle, then press Start, or run this cell again.";

const REASONS = {
  NotAllowedError: "The browser was not allowed to use the camera: allow it in the address bar, then press Start again. VS Code gives no notebook the camera.",
  NotFoundError: "The browser found no camera: connect one, then press Start again.",
  NotReadableError: "The camera cannot be read: is another program using it?",
};

function element(name, properties, ...children) {
  const node = Object.assign(document.createElement(name), properties);
  node.append(...children);
  return node;
}

function render({ model, el }) {
  const video = element("video", { playsInline: true, muted: true });
  const overlay = element("canvas", { className: "facelab-overlay", role: "img", ariaLabel: "The camera's picture with labels" });
  const asked = document.createElement("canvas"); // the frame that was sent, in full size
  const small = document.createElement("canvas");
  // One button: a second that is disabled after a press would lose the keyboard's focus.
  const button = element("button", { textContent: "Start", type: "button" });
  const state = element("span", { textContent: "Camera off.", role: "status" });
  const rate = element("span", { className: "facelab-rate" });
  el.classList.add("facelab");
  el.append(
    element("div", { className: "facelab-bar" }, button, state, rate),
    element("div", { className: "facelab-picture" }, video, overlay),
  );

  let stream = null;
  let session = null; // another object from each Start to its Stop
  let number = 0;
  let times = [];
  let spoken = 0;
  let waiting = 0;

  async function begin() {
    if (!navigator.mediaDevices) {
      return end("Browsers give the camera only to pages from localhost or with https.");
    }
    const mine = (session = {});
    button.textContent = "Stop";
    state.textContent = "Waiting for the camera ...";
    try {
      const opened = await navigator.mediaDevices.getUserMedia({ video: { width: 640 }, audio: false });
      if (session !== mine) return opened.getTracks().forEach((track) => track.stop()); // stopped meanwhile
      stream = opened;
      stream.getTracks()[0].addEventListener("ended", () => session === mine && end("The camera went away."));
      video.srcObject = stream;
      await video.play();
    } catch (error) {
      if (session === mine) end(REASONS[error.name] || `The camera could not be opened: ${error.message}`);
    }
    if (session !== mine) return;
    state.textContent = "Waiting for the first labels ...";
    times = [];
    spoken = 0;
    send();
  }

  function end(text = "Camera off.") {
    session = null;
    number += 1; // what the kernel still answers comes too late
    clearTimeout(waiting);
    stream?.getTracks().forEach((track) => track.stop());
    stream = null;
    video.srcObject = null;
    overlay.getContext("2d").clearRect(0, 0, overlay.width, overlay.height);
    button.textContent = "Start";
    state.textContent = text;
    rate.textContent = "";
  }

  function send() {
    if (!stream) return;
    const mine = session;
    small.width = Math.min(model.get("frame_width"), video.videoWidth);
    small.height = Math.round((small.width * video.videoHeight) / video.videoWidth);
    asked.width = video.videoWidth;
    asked.height = video.videoHeight;
    asked.getContext("2d").drawImage(video, 0, 0);
    small.getContext("2d").drawImage(asked, 0, 0, small.width, small.height);
    small.toBlob(
      async (blob) => {
        if (session !== mine) return;
        if (!blob) return end("The browser could not read a frame of the camera.");
        number += 1;
        waiting = setTimeout(() => end(SILENCE), PATIENCE);
        model.send({ kind: "frame", number }, undefined, [await blob.arrayBuffer()]);
      },
      "image/jpeg",
      JPEG_QUALITY,
    );
  }

  function receive(message) {
    if (!stream || message.number !== number) return;
    clearTimeout(waiting);
    if (message.kind === "error") return end(message.text);
    draw(message);
    const now = performance.now();
    if (message.said !== state.textContent && now - spoken > SPEAK_EVERY) {
      state.textContent = message.said;
      spoken = now;
    }
    times = [...times.slice(-20), now];
    if (times.length > 1) {
      const perSecond = ((times.length - 1) * 1000) / (now - times[0]);
      rate.textContent = `${perSecond.toFixed(0)} frames/s, ${message.milliseconds.toFixed(0)} ms in the kernel`;
    }
    requestAnimationFrame(send);
  }

  // The kernel says where labels stand, in shares of the picture: they fit it whatever its size.
  function draw({ boxes, labels }) {
    overlay.width = asked.width;
    overlay.height = asked.height;
    const sides = [overlay.width, overlay.height, overlay.width, overlay.height];
    const inPixels = (box) => box.map((share, index) => share * sides[index]);
    const { box: boxColour, text: textColour } = model.get("colours");
    const pen = overlay.getContext("2d");
    pen.drawImage(asked, 0, 0);
    pen.strokeStyle = boxColour;
    pen.lineWidth = Math.max(2, Math.min(overlay.width, overlay.height) / 240);
    for (const box of boxes) pen.strokeRect(...inPixels(box));
    for (const { text, box } of labels) {
      const [left, top, width, height] = inPixels(box);
      pen.fillStyle = boxColour;
      pen.fillRect(left, top, width, height);
      pen.fillStyle = textColour;
      pen.font = `600 ${0.78 * height}px system-ui, sans-serif`;
      pen.fillText(text, left + 0.2 * height, top + 0.77 * height, width - 0.4 * height);
    }
  }

  button.addEventListener("click", () => (session ? end() : begin()));
  model.on("msg:custom", receive);
  return () => {
    model.off("msg:custom", receive);
    end();
  };
}

export default { render };
