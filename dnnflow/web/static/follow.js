// Follows a study or a training by server-sent events, and says when the server is away.
export function follow(path, update, isOver) {
  const away = document.getElementById("away");
  let source = null, retry = 0;

  function open() {
    clearTimeout(retry);
    source?.close();
    source = new EventSource(path);
    source.addEventListener("status", (event) => { away.hidden = true; update(JSON.parse(event.data)); });
    source.addEventListener("end", () => { source.close(); if (!isOver()) retry = setTimeout(open, 2000); });
    source.onopen = () => { away.hidden = true; };
    source.onerror = () => {
      away.hidden = document.visibilityState === "hidden";
      // The browser tries again by itself, but not after an answer that is no stream
      if (source.readyState === EventSource.CLOSED) retry = setTimeout(open, 3000);
    };
  }

  window.addEventListener("pagehide", () => source?.close());
  window.addEventListener("pageshow", (event) => { if (event.persisted) open(); });
  open();
  return () => { if (source.readyState === EventSource.CLOSED) open(); };
}
