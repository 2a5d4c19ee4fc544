"use strict";
// The generator of models/generator.py in plain JavaScript, for the page of sampling/page.py.
//
// Maps are flat arrays, pixel after pixel: the value of a channel is x[(row * width + column) * channels + channel]. All
// numbers are float64, in which JavaScript computes: arrays of float32 would be converted in the inner loop, at a third of the speed.

/** Return the tensors of `model` by name, as { data, shape }: 16-bit whole numbers in `buffer`, each tensor with its own scale. */
function unpacked(model, buffer) {
  const tensors = {};
  for (const [name, { shape, offset, scale }] of Object.entries(model.tensors)) {
    const whole = new Int16Array(buffer, offset, shape.reduce((a, b) => a * b, 1));
    tensors[name] = { shape, data: Float64Array.from(whole, value => value * scale) };
  }
  return tensors;
}

/** Return y (pixels, outputs) = x (pixels, inputs) times the layer's matrix (outputs, inputs), plus its bias: a 1x1 convolution.
 *
 * Two pixels and four outputs at a time: six loads serve eight products. At an edge a pixel or an output is computed twice. */
function mix(x, pixels, { matrix, bias, inputs, outputs }) {
  const y = new Float64Array(pixels * outputs);
  for (let o = 0; o < outputs; o += 4) {
    const o1 = Math.min(o + 1, outputs - 1), o2 = Math.min(o + 2, outputs - 1), o3 = Math.min(o + 3, outputs - 1);
    const row0 = o * inputs, row1 = o1 * inputs, row2 = o2 * inputs, row3 = o3 * inputs;
    for (let p = 0; p < pixels; p += 2) {
      const q = Math.min(p + 1, pixels - 1), xp = p * inputs, xq = q * inputs;
      let p0 = bias[o], p1 = bias[o1], p2 = bias[o2], p3 = bias[o3], q0 = p0, q1 = p1, q2 = p2, q3 = p3;
      for (let i = 0; i < inputs; i++) {
        const a = x[xp + i], b = x[xq + i];
        const m0 = matrix[row0 + i], m1 = matrix[row1 + i], m2 = matrix[row2 + i], m3 = matrix[row3 + i];
        p0 += a * m0; p1 += a * m1; p2 += a * m2; p3 += a * m3;
        q0 += b * m0; q1 += b * m1; q2 += b * m2; q3 += b * m3;
      }
      const yp = p * outputs, yq = q * outputs;
      y[yp + o] = p0; y[yp + o1] = p1; y[yp + o2] = p2; y[yp + o3] = p3;
      y[yq + o] = q0; y[yq + o1] = q1; y[yq + o2] = q2; y[yq + o3] = q3;
    }
  }
  return y;
}

/** Return the 3x3 convolution of maps (height, width, channels), with zeros around them.
 *
 * Row by row: the nine neighbours of a pixel, one after another, are its inputs to a 1x1 convolution. */
function conv3(x, height, width, layer) {
  const triple = layer.inputs / 3, channels = triple / 3; // a pixel and its neighbours to the left and right
  const y = new Float64Array(height * width * layer.outputs), neighbours = new Float64Array(width * layer.inputs);
  for (let row = 0; row < height; row++) {
    for (let above = 0; above < 3; above++) {
      const from = row + above - 1, outside = from < 0 || from >= height;
      for (let column = 0; column < width; column++) {
        const to = (3 * column + above) * triple, start = (from * width + column - 1) * channels;
        for (let i = 0; i < triple; i++) {
          const beside = outside || (column === 0 && i < channels) || (column === width - 1 && i >= 2 * channels);
          neighbours[to + i] = beside ? 0 : x[start + i];
        }
      }
    }
    y.set(mix(neighbours, width, layer), row * width * layer.outputs);
  }
  return y;
}

// GELU, x * Phi(x) with the normal distribution's Phi, from a table of Phi on [-LIMIT, LIMIT]: each step adds the density's
// integral over it, by Simpson's rule. Between two entries the line is used, which is wrong by less than 1e-7.
const LIMIT = 6, STEPS = 1024; // per unit
const PHI = new Float64Array(2 * LIMIT * STEPS + 2);
for (let i = 1; i < PHI.length; i++) {
  const density = t => Math.exp(-t * t / 2) / Math.sqrt(2 * Math.PI), end = i / STEPS - LIMIT;
  PHI[i] = PHI[i - 1] + (density(end - 1 / STEPS) + 4 * density(end - 0.5 / STEPS) + density(end)) / (6 * STEPS);
}

/** Return GELU of every value, exact (with erf) as in torch. */
function gelu(x) {
  const y = new Float64Array(x.length);
  for (let i = 0; i < x.length; i++) {
    const value = x[i];
    if (value > -LIMIT && value < LIMIT) {
      const place = (value + LIMIT) * STEPS, below = place | 0;
      y[i] = value * (PHI[below] + (place - below) * (PHI[below + 1] - PHI[below]));
    } else if (value > 0) {
      y[i] = value;
    }
  }
  return y;
}

/** AdaIN, in place: normalise every channel of maps (pixels, channels), then scale and shift it; `style` holds all scales, then all shifts. */
function normalise(x, channels, style) {
  const pixels = x.length / channels;
  for (let c = 0; c < channels; c++) {
    let sum = 0, squares = 0;
    for (let i = c; i < x.length; i += channels) sum += x[i];
    const mean = sum / pixels;
    for (let i = c; i < x.length; i += channels) squares += (x[i] - mean) ** 2;
    const factor = style[c] / Math.sqrt(squares / pixels + 1e-2); // NORM_EPSILON of the generator
    for (let i = c; i < x.length; i += channels) x[i] = (x[i] - mean) * factor + style[channels + c];
  }
}

/** Return maps of twice the height and width: every pixel becomes four. */
function doubled(x, height, width) {
  const channels = x.length / (height * width), y = new Float64Array(4 * x.length);
  for (let row = 0; row < 2 * height; row++) {
    for (let column = 0; column < 2 * width; column++) {
      const from = ((row >> 1) * width + (column >> 1)) * channels, to = (row * 2 * width + column) * channels;
      for (let c = 0; c < channels; c++) y[to + c] = x[from + c];
    }
  }
  return y;
}

/** A generator whose weights are the tensors of `model` in `buffer`; `model.upsample` says which blocks upsample. */
class Generator {
  constructor(model, buffer) {
    const tensors = unpacked(model, buffer);
    const layer = name => {
      const weight = tensors[`${name}.weight`];
      if (!weight) return null; // this block does not change the width
      const outputs = weight.shape[0], inputs = weight.data.length / outputs;
      return { matrix: weight.data, bias: tensors[`${name}.bias`]?.data ?? new Float64Array(outputs), inputs, outputs };
    };
    this.latents = tensors.latents;
    this.mean = tensors.mean.data; // the mean style
    this.constant = tensors.constant;
    this.mapping = [];
    for (let next; (next = layer(`mapping.layers.${this.mapping.length}`)); ) this.mapping.push(next);
    this.blocks = model.upsample.map((upsample, i) => ({
      upsample,
      resize: layer(`blocks.${i}.resize`),
      affine: layer(`blocks.${i}.norm.affine`),
      convs: [0, 1, 2, 3].map(number => layer(`blocks.${i}.convs.${number}`)),
      noise: tensors[`blocks.${i}.noise`]?.data, // (height, width)
      strengths: tensors[`blocks.${i}.strengths`]?.data,
    }));
    this.toRgb = layer("to_rgb");
  }

  /** Return the style of a latent. A truncation below 1 pulls it towards the mean style, which 0 gives. */
  style(latent, truncation = 1) {
    const square = latent.reduce((sum, value) => sum + value * value, 0) / latent.length;
    let w = Float64Array.from(latent, value => value / Math.sqrt(square + 1e-8));
    for (const layer of this.mapping) w = mix(w, 1, layer).map(value => (value > 0 ? value : 0.2 * value));
    return w.map((value, i) => this.mean[i] + truncation * (value - this.mean[i]));
  }

  /** Return the image { height, width, channels, data } of a style: data (height, width, channels), about [-1, 1] and not clipped. */
  image(w) {
    let [height, width] = this.constant.shape, x = this.constant.data.slice();
    for (const { upsample, resize, affine, convs, noise, strengths } of this.blocks) {
      if (resize) x = mix(x, height * width, resize);
      normalise(x, affine.outputs / 2, mix(w, 1, affine));
      let h = gelu(mix(gelu(x), height * width, convs[0]));
      if (upsample) {
        [x, h] = [doubled(x, height, width), doubled(h, height, width)];
        [height, width] = [2 * height, 2 * width];
      }
      h = conv3(h, height, width, convs[1]);
      noise?.forEach((value, pixel) => {
        for (let c = 0; c < strengths.length; c++) h[pixel * strengths.length + c] += value * strengths[c];
      });
      h = mix(gelu(conv3(gelu(h), height, width, convs[2])), height * width, convs[3]);
      for (let i = 0; i < x.length; i++) x[i] += h[i];
    }
    return { height, width, channels: this.toRgb.outputs, data: mix(x, height * width, this.toRgb) };
  }
}

/** Return an image's pixels as a canvas takes them: red, green, blue and opacity, rounded and clipped. */
function pixels({ channels, data }) {
  const bytes = new Uint8ClampedArray(data.length / channels * 4).fill(255); // it rounds and clips
  for (let i = 0, to = 0; i < data.length; i += channels, to += 4) {
    if (channels === 4) bytes[to + 3] = (data[i + 3] + 1) * 127.5;
    for (let colour = 0; colour < 3; colour++) {
      bytes[to + colour] = (data[channels === 1 ? i : i + colour] + 1) * 127.5;
      // Four channels hold colours that are multiplied by the opacity.
      if (channels === 4) bytes[to + colour] = bytes[to + 3] ? bytes[to + colour] * 255 / bytes[to + 3] : 0;
    }
  }
  return bytes;
}

/** Interpolate spherically between two latents, as models/interpolation.py does; lengths are interpolated linearly. */
function slerp(a, b, t) {
  if (t === 0 || t === 1) return t ? b : a;
  const dot = (u, v) => u.reduce((sum, value, i) => sum + value * v[i], 0);
  const [lengthA, lengthB] = [Math.sqrt(dot(a, a)), Math.sqrt(dot(b, b))];
  const angle = Math.acos(Math.max(-1, Math.min(1, dot(a, b) / (lengthA * lengthB)))), sine = Math.sin(angle);
  if (!(sine > 1e-6)) return a.map((value, i) => value + t * (b[i] - value)); // no arc, or no single one
  const length = lengthA + t * (lengthB - lengthA);
  const shareA = Math.sin((1 - t) * angle) / sine * length / lengthA, shareB = Math.sin(t * angle) / sine * length / lengthB;
  return a.map((value, i) => shareA * value + shareB * b[i]);
}
