// The API key, where the server wants one: asked for above everything, and kept nowhere but in this page while it is open.

import { byId } from "./dom.js";

const held = { key: "", waiting: [] };

/** What a request carries: the key, where one was given. */
export const keyHeaders = () => (held.key ? { "X-API-Key": held.key } : {});

/** Show the field; the promise ends when a key is given. */
export function askForKey() {
  if (byId("key-form").hidden) {
    byId("key-form").hidden = false;
    byId("key").focus();
  }
  return new Promise((resolve) => held.waiting.push(resolve));
}

export const isKeyWanted = () => held.key !== "" || !byId("key-form").hidden;

export function listenToKey() {
  byId("key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    held.key = byId("key").value.trim();
    byId("key-form").hidden = true;
    for (const resolve of held.waiting.splice(0)) resolve();
  });
}
