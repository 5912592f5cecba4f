// Search in pages that are opened from the disk: browsers start no worker from a file there, so it runs in a frame.
// Without a script of this name in zensical.toml, pages would load one from a CDN.
if (location.protocol === "file:") {
  const load = (frame, url) => new Promise((done, failed) => {
    const script = frame.document.createElement("script")
    script.src = url
    script.onload = done
    script.onerror = failed
    frame.document.body.append(script)
  })

  window.Worker = class extends EventTarget {
    constructor(url) {
      super()
      const element = document.createElement("iframe")
      element.hidden = true
      document.body.append(element)
      const frame = element.contentWindow
      // What the worker posts is an event of this object; what the page posts, one in the frame.
      frame.postMessage = (data) => {
        const event = new MessageEvent("message", { data })
        this.dispatchEvent(event)
        this.onmessage?.(event)
      }
      frame.importScripts = (...urls) => Promise.all(urls.map((one) => load(frame, one)))
      this.ready = load(frame, new URL(url, location.href)).then(() => frame)
    }

    postMessage(data) {
      this.ready.then((frame) => frame.dispatchEvent(new frame.MessageEvent("message", { data })))
    }

    terminate() {}
  }
}
