// Which messages of a conversation are shown: a run of numbers without a hole. No DOM.
//
// The SDK may hold several runs (the newest messages, and a place far back that was jumped to).
// One of them is shown, and it never grows beyond a bound: at one end it grows, at the other it is
// cut, so that reading through a long story holds no more of it than a short one.

/** Messages that are shown at most; what is beyond comes back by pages. */
export const SPAN_MAX = 600;

/** The run around `seq` among the ascending `seqs`: {from, to}; null when `seq` is not held. */
export function spanAround(seqs, seq, most = SPAN_MAX) {
  const at = indexOf(seqs, seq);
  if (at < 0) return null;
  let first = at;
  let last = at;
  const half = most >> 1;
  while (first > 0 && at - first < half && seqs[first - 1] === seqs[first] - 1) first -= 1;
  const end = first + most - 1;
  while (last < end && seqs[last + 1] === seqs[last] + 1) last += 1;
  return { from: seqs[first], to: seqs[last] };
}

/** The newest messages without a hole; null when the newest, `last`, is not held. */
export function newestSpan(seqs, last, most = SPAN_MAX) {
  if (seqs.at(-1) !== last) return null;
  let first = seqs.length - 1;
  const begin = Math.max(0, seqs.length - most);
  while (first > begin && seqs[first - 1] === seqs[first] - 1) first -= 1;
  return { from: seqs[first], to: last };
}

/**
 * The run after messages came: grown at both ends as far as `has(seq)` tells. Where that is too
 * much, it is cut at its "start" or "end".
 */
export function grown({ from, to }, has, cut, most = SPAN_MAX) {
  while (has(from - 1)) from -= 1;
  while (has(to + 1)) to += 1;
  if (to - from < most) return { from, to };
  return cut === "start" ? { from: to - most + 1, to } : { from, to: from + most - 1 };
}

/** The index of `seq` in ascending `seqs`, -1 when it is not there. */
function indexOf(seqs, seq) {
  let low = 0;
  let high = seqs.length - 1;
  while (low <= high) {
    const middle = (low + high) >> 1;
    if (seqs[middle] === seq) return middle;
    if (seqs[middle] < seq) low = middle + 1;
    else high = middle - 1;
  }
  return -1;
}

/** The held number that is nearest to `seq`, 0 when none is held. */
export function nearest(seqs, seq) {
  let found = 0;
  for (const one of seqs) {
    if (found === 0 || Math.abs(one - seq) < Math.abs(found - seq)) found = one;
  }
  return found;
}
