// Follows a study or a training by server-sent events, and says when the server is away.
import { call, show } from "./api.js";

export function follow(path, update, isOver) {
  const away = document.getElementById("away");
  let source = null, retry = 0;

  function open() {
    clearTimeout(retry);
    source?.close();
    source = new EventSource(`${path}/events`);
    source.addEventListener("status", (event) => { away.hidden = true; update(JSON.parse(event.data)); });
    source.addEventListener("end", () => { source.close(); if (!isOver()) retry = setTimeout(open, 2000); });
    source.onopen = () => { away.hidden = true; };
    source.onerror = () => {
      // The browser tries again by itself, but not after an answer that is no stream: that one is asked for
      if (source.readyState === EventSource.CLOSED) look();
      else say();
    };
  }

  function say() { away.hidden = document.visibilityState === "hidden"; }

  async function look() {
    try {
      update(await call(path));
      away.hidden = true;
    } catch (error) {
      if (error.status === 404) return show(away, error);
      say();
    }
    if (!isOver()) retry = setTimeout(open, 3000);
  }

  window.addEventListener("pagehide", () => source?.close());
  window.addEventListener("pageshow", (event) => { if (event.persisted) open(); });
  open();
  return () => { if (source.readyState === EventSource.CLOSED) open(); };
}
