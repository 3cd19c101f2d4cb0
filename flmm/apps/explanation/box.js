// A box [x0, y0, x1, y1] on a picture, in its pixels, drawn by a pointer or by keys. Both pages use
// it: an explanation's and that of flmm.web.

/** Where on a picture of so many pixels an event is, which fills an area of the page. */
function locateOn({ width, height }, area, event) {
  const share = (value, start, length) => Math.min(1, Math.max(0, (value - start) / length));
  return [
    share(event.clientX, area.left, area.width) * width,
    share(event.clientY, area.top, area.height) * height,
  ];
}

/** The box between two places. */
function spanBox([x, y], [toX, toY]) {
  return [Math.min(x, toX), Math.min(y, toY), Math.max(x, toX), Math.max(y, toY)];
}

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

/**
 * The box one step on, with Shift its right or lower edge one step on; without a box one in the
 * middle; null where the key is no arrow.
 */
function moveBox({ width, height }, box, { key, shiftKey, ctrlKey, altKey, metaKey }) {
  const sides = [width, height];
  if (!ARROWS[key] || ctrlKey || altKey || metaKey) return null;
  if (!box) return [1, 2].flatMap((third) => sides.map((side) => (third * side) / 3));
  const moved = [...box];
  ARROWS[key].forEach((sign, axis) => {
    const step = sides[axis] / 40;
    const least = shiftKey ? box[axis] + step - box[axis + 2] : -box[axis];
    const by = Math.min(sides[axis] - box[axis + 2], Math.max(least, sign * step));
    moved[axis + 2] += by;
    if (!shiftKey) moved[axis] += by;
  });
  return moved;
}

