"use strict";
// Drawing images, labels, scores and their errors on canvases, from the pictures that stand in the page.

const data = JSON.parse(document.getElementById("data").textContent);
const decoded = new Map();

// The pixels of a picture, {width, height, data: RGBA}, decoded once.
function pixels(address) {
  if (!decoded.has(address)) {
    decoded.set(address, new Promise((resolve, reject) => {
      const image = new Image();
      image.onload = () => {
        const canvas = document.createElement("canvas");
        canvas.width = image.naturalWidth;
        canvas.height = image.naturalHeight;
        const context = canvas.getContext("2d", {willReadFrequently: true});
        context.drawImage(image, 0, 0);
        resolve(context.getImageData(0, 0, canvas.width, canvas.height));
      };
      image.onerror = () => reject(new Error("a picture of this page cannot be read"));
      image.src = address;
    }));
  }
  return decoded.get(address);
}

// Paint a canvas of the size of `model`; `color(i, out)` writes red, green and blue of pixel i.
function paint(canvas, model, color) {
  canvas.width = model.width;
  canvas.height = model.height;
  const context = canvas.getContext("2d");
  const picture = context.createImageData(model.width, model.height);
  const rgb = [0, 0, 0];
  for (let i = 0; i < picture.data.length; i += 4) {
    color(i, rgb);
    picture.data[i] = rgb[0];
    picture.data[i + 1] = rgb[1];
    picture.data[i + 2] = rgb[2];
    picture.data[i + 3] = 255;
  }
  context.putImageData(picture, 0, 0);
}

function put(out, color) {
  out[0] = color[0];
  out[1] = color[1];
  out[2] = color[2];
}

function paintImage(canvas, image) {
  paint(canvas, image, (i, out) => put(out, image.data.subarray(i, i + 3)));
}

// The colour of a class, of several classes or of one foreground.
function classColor(index, classes) {
  if (index === 255) return data.colors.ignored;
  return classes > 1 ? data.classColors[index] : index ? data.colors.found : [0, 0, 0];
}

function paintClasses(canvas, label, classes) {
  paint(canvas, label, (i, out) => put(out, classColor(label.data[i], classes)));
}

function paintScores(canvas, map) {
  const steps = data.scoreColors.length - 1;
  paint(canvas, map, (i, out) => {
    const at = (map.data[i] / data.levels) * steps;
    const low = Math.min(Math.floor(at), steps - 1);
    for (let c = 0; c < 3; c++) {
      out[c] = data.scoreColors[low][c] + (at - low) * (data.scoreColors[low + 1][c] - data.scoreColors[low][c]);
    }
  });
}

// The dimmed image under its errors: found, missed, invented or a wrong class, not counted. `predicted(i)` is a class;
// errors are pale where `matters(i)` is false.
function paintErrors(canvas, image, label, predicted, matters = () => true) {
  paint(canvas, image, (i, out) => {
    const truth = label.data[i], guess = predicted(i);
    const under = [0, 1, 2].map((c) => image.data[i + c] * data.backdrop);
    let color = under, share = matters(i) ? 1 : 0.35;
    if (truth === 255 || guess === 255) color = data.colors.ignored;
    else if (guess !== truth) color = guess === 0 ? data.colors.missed : data.colors.invented;
    else if (truth) {
      color = data.colors.found;
      share = 0.5;
    }
    for (let c = 0; c < 3; c++) out[c] = share * color[c] + (1 - share) * under[c];
  });
}

// The image with the outlines of the classes of a label.
function paintOutlines(canvas, image, label, color) {
  const width = image.width;
  const edge = (i) => {
    const here = label.data[i], place = i / 4, x = place % width, y = Math.floor(place / width);
    if (here === 0) return false;
    return (x > 0 && label.data[i - 4] !== here) || (x < width - 1 && label.data[i + 4] !== here) ||
      (y > 0 && label.data[i - 4 * width] !== here) || (y < image.height - 1 && label.data[i + 4 * width] !== here);
  };
  paint(canvas, image, (i, out) => put(out, edge(i) ? color : image.data.subarray(i, i + 3)));
}

// A canvas of a size [height, width] with its name below it, added to a box of panels.
function addPanel(box, name, size) {
  const part = document.createElement("div");
  const canvas = document.createElement("canvas");
  const title = document.createElement("span");
  title.textContent = name;
  [canvas.height, canvas.width] = size;
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", name);
  part.append(canvas, title);
  box.append(part);
  return canvas;
}
