// Browsers start no worker for a page that is read from a folder. This runs the worker of the search in a hidden frame
// instead. With a server it does nothing.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      this.waiting = [];
      const frame = document.createElement("iframe");
      frame.hidden = true;
      const start = () => {
        document.body.append(frame);
        this.target = frame.contentWindow;
        window.addEventListener("message", (event) => {
          if (event.source === this.target) this.dispatchEvent(new MessageEvent("message", { data: event.data }));
        });
        frame.addEventListener("load", () => {
          this.ready = true;
          this.waiting.splice(0).forEach((data) => this.postMessage(data));
        });
        const page = this.target.document;
        page.open();
        page.write(
          "<script>postMessage = (data) => parent.postMessage(data, '*');" +
            "importScripts = (...urls) => urls.reduce((before, url) => before.then(() => new Promise((done) => {" +
            "const script = document.createElement('script'); script.src = url; script.onload = done;" +
            "document.head.append(script); })), Promise.resolve());<\/script>" +
            `<script src="${url}"><\/script>`,
        );
        page.close();
      };
      if (document.body) start();
      else document.addEventListener("DOMContentLoaded", start);
    }

    postMessage(data) {
      // Not the frame's own postMessage, which is the one that answers.
      if (this.ready) this.target.dispatchEvent(new MessageEvent("message", { data }));
      else this.waiting.push(data);
    }

    terminate() {}
  };
}
