// The file's own numbers to probabilities, and two files' numbers side by side.

/** The file's numbers to probabilities: dequantized, then softmax unless the file has one itself. */
export function probabilities(answer, output) {
  const scores = Array.from(answer, (number) => (number - output.zero_point) * output.scale);
  if (output.probabilities) return scores;
  const largest = Math.max(...scores);
  const powers = scores.map((score) => Math.exp(score - largest));
  const sum = powers.reduce((total, power) => total + power);
  return powers.map((power) => power / sum);
}

/** The class of the largest number, the first of equals. */
export function best(answer) {
  return answer.reduce((top, number, index) => (number > answer[top] ? index : top), 0);
}

/** The largest difference of two answers, in steps of their own numbers. */
export function distance(answer, expected) {
  if (answer.length !== expected.length) return Infinity;
  return answer.reduce((most, number, index) => Math.max(most, Math.abs(number - expected[index])), 0);
}
