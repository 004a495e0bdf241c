// The browser's side of BrowserCamera: asks for the camera, sends small frames to the kernel one
// at a time, and draws what comes back over the frame that it is about: over the running video,
// the boxes of a face that moves would trail behind it.

const JPEG_QUALITY = 0.8;

const REASONS = {
  NotAllowedError: "The browser was not allowed to use the camera: allow it in the address bar, then press Start again.",
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
  const overlay = element("canvas", { className: "facelab-overlay" });
  const asked = document.createElement("canvas"); // the frame that was sent, in full size
  const small = document.createElement("canvas");
  const start = element("button", { textContent: "Start", type: "button" });
  const stop = element("button", { textContent: "Stop", type: "button", disabled: true });
  const state = element("span", { className: "facelab-state", textContent: "Camera off." });
  state.setAttribute("role", "status");
  el.classList.add("facelab");
  el.append(
    element("div", { className: "facelab-bar" }, start, stop, state),
    element("div", { className: "facelab-picture" }, video, overlay),
  );

  let stream = null;
  let number = 0;
  let times = [];
  let disposed = false;

  async function begin() {
    start.disabled = true;
    if (!navigator.mediaDevices) {
      return fail("Browsers give the camera only to pages from localhost or with https.");
    }
    try {
      stream = await navigator.mediaDevices.getUserMedia({ video: { width: 640 }, audio: false });
      if (disposed) return end(); // the cell was run again while the browser asked
      stream.getTracks()[0].addEventListener("ended", () => end("The camera went away."));
      video.srcObject = stream;
      await video.play();
      if (!stream) return; // stopped meanwhile
    } catch (error) {
      return end(REASONS[error.name] || `The camera could not be opened: ${error.message}`);
    }
    stop.disabled = false;
    state.textContent = "Waiting for the first labels ...";
    times = [];
    send();
  }

  function fail(text) {
    state.textContent = text;
    start.disabled = false;
  }

  function end(text = "Camera off.") {
    stream?.getTracks().forEach((track) => track.stop());
    stream = null;
    video.srcObject = null;
    overlay.getContext("2d").clearRect(0, 0, overlay.width, overlay.height);
    stop.disabled = true;
    fail(text);
  }

  function send() {
    if (!stream) return;
    small.width = Math.min(model.get("frame_width"), video.videoWidth);
    small.height = Math.round((small.width * video.videoHeight) / video.videoWidth);
    asked.width = video.videoWidth;
    asked.height = video.videoHeight;
    asked.getContext("2d").drawImage(video, 0, 0);
    small.getContext("2d").drawImage(asked, 0, 0, small.width, small.height);
    small.toBlob(
      async (blob) => {
        if (!stream) return;
        if (!blob) return end("The browser could not read a frame of the camera.");
        number += 1;
        model.send({ kind: "frame", number }, undefined, [await blob.arrayBuffer()]);
      },
      "image/jpeg",
      JPEG_QUALITY,
    );
  }

  function receive(message) {
    // An answer to a frame from before Stop is too late.
    if (!stream || message.number !== number) return;
    if (message.kind === "error") return end(message.text);
    draw(message.faces);
    const now = performance.now();
    times = [...times.slice(-20), now];
    if (times.length > 1) {
      const rate = ((times.length - 1) * 1000) / (now - times[0]);
      const faces = message.faces.length === 1 ? "1 face" : `${message.faces.length} faces`;
      state.textContent = `${rate.toFixed(0)} frames/s, ${faces}, ${message.milliseconds.toFixed(0)} ms in the kernel`;
    }
    requestAnimationFrame(send);
  }

  // Boxes come in shares of the picture, so they fit it whatever its size.
  function draw(faces) {
    overlay.width = asked.width;
    overlay.height = asked.height;
    const pen = overlay.getContext("2d");
    pen.drawImage(asked, 0, 0);
    const size = Math.max(14, overlay.height / 24);
    pen.font = `600 ${size}px system-ui, sans-serif`;
    pen.lineWidth = 3;
    for (const { box, text } of faces) {
      const [left, top, width, height] = [
        box[0] * overlay.width, box[1] * overlay.height, box[2] * overlay.width, box[3] * overlay.height,
      ];
      pen.strokeStyle = pen.fillStyle = "#3cc850";
      pen.strokeRect(left, top, width, height);
      const bottom = Math.max(top, 1.4 * size);
      pen.fillRect(left, bottom - 1.4 * size, pen.measureText(text).width + 10, 1.4 * size);
      pen.fillStyle = "#ffffff";
      pen.fillText(text, left + 5, bottom - 0.4 * size);
    }
  }

  start.addEventListener("click", begin);
  stop.addEventListener("click", () => end());
  model.on("msg:custom", receive);
  return () => {
    disposed = true;
    model.off("msg:custom", receive);
    end();
  };
}

export default { render };
