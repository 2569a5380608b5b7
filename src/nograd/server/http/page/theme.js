// Light or dark: as the system says, or as the switch was set last. Not a module: it runs before the page is first painted.
(() => {
  const MEDIA = { system: "(prefers-color-scheme: dark)", light: "not all", dark: "all" };
  const NEXT = { system: "light", light: "dark", dark: "system" };
  const kept = () => {
    try {
      return localStorage.getItem("nograd-theme");
    } catch {
      return null; // a browser that keeps nothing
    }
  };
  let theme = Object.hasOwn(MEDIA, kept()) ? kept() : "system";

  function apply() {
    document.getElementById("dark").media = MEDIA[theme];
    const button = document.getElementById("theme");
    if (!button) return;
    button.dataset.theme = theme;
    button.querySelector("span").textContent = theme;
    button.title = `colours: ${theme}; press for ${NEXT[theme]}`;
  }

  apply();
  document.addEventListener("DOMContentLoaded", () => {
    apply();
    document.getElementById("theme").addEventListener("click", () => {
      theme = NEXT[theme];
      try {
        localStorage.setItem("nograd-theme", theme);
      } catch {
        // then it holds until the page is left
      }
      apply();
    });
  });
})();
