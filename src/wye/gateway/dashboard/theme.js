/**
 * Light or dark: as the system says, or as the reader chose. A classic script, run before the first
 * paint, so that no page flashes in the other colours.
 */
(() => {
  const KEY = "wye:theme";
  const CHOICES = ["auto", "light", "dark"];

  const stored = () => {
    try {
      const found = localStorage.getItem(KEY);
      return CHOICES.includes(found) ? found : "auto";
    } catch {
      return "auto"; // Storage is closed to this page: the choice lasts until it is left.
    }
  };

  let choice = stored();
  const apply = () => {
    document.documentElement.dataset.theme = choice;
    const button = document.getElementById("theme");
    if (button) button.textContent = `Theme: ${choice}`;
  };

  apply();
  addEventListener("DOMContentLoaded", () => {
    apply();
    document.getElementById("theme").addEventListener("click", () => {
      choice = CHOICES[(CHOICES.indexOf(choice) + 1) % CHOICES.length];
      apply();
      try {
        localStorage.setItem(KEY, choice);
      } catch {
        document.getElementById("theme").title = "Not remembered: this browser keeps no storage";
      }
    });
  });
})();
