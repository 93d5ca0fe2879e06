// @ts-check
/** Finding a file by any parts of its name. */

/**
 * The names that hold every part, whatever its case and their order; those that hold one at the beginning of a word
 * come first.
 * @param {string[]} names
 * @param {string} query Parts with spaces between them; without any, every name is found.
 * @returns {string[]}
 */
export function find(names, query) {
  const parts = plain(query).split(/\s+/).filter(Boolean);
  const matches = names.filter((name) => parts.every((part) => plain(name).includes(part)));
  const score = (/** @type {string} */ name) => parts.filter((part) => beginsWord(plain(name), part)).length;
  return matches
    .map((name) => ({ name, score: score(name) }))
    .sort((a, b) => b.score - a.score)
    .map(({ name }) => name);
}

/** Upper and lower case, and the several ways to write one accented letter, are the same. @param {string} text */
function plain(text) {
  return text.normalize("NFKC").toLowerCase();
}

/** @param {string} name @param {string} part */
function beginsWord(name, part) {
  for (let at = name.indexOf(part); at >= 0; at = name.indexOf(part, at + 1)) {
    if (at === 0 || /[\s/\\._-]/.test(name[at - 1])) return true;
  }
  return false;
}
