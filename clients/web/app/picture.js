// Pictures of people and personas: made square and small before they are sent.

/** What the server takes at most, in bytes. */
export const MAX_BYTES = 256 * 1024;
/** Larger files are not even opened, in bytes. */
const MAX_FILE_BYTES = 50 * 1024 * 1024;
/** Widths that are tried until the picture is small enough, in pixels. */
const SIZES = [512, 384, 256, 128];

/** The file is no picture that can be shown, or too large to look at. */
export class NoPicture extends Error {
  constructor() {
    super("not a picture");
    // As the server says it; `explain` has words for it.
    this.tag = "not a picture";
  }
}

/**
 * The middle of a picture as a square of at most `MAX_BYTES`, as a Blob: WebP, or where the browser
 * writes none, PNG or JPEG. Drawing it anew also leaves out where and when it was taken.
 */
export async function squarePicture(file) {
  const bitmap = await open(file);
  try {
    for (const size of SIZES) {
      for (const blob of await written(drawn(bitmap, size))) {
        if (blob.size <= MAX_BYTES) return blob;
      }
    }
  } finally {
    bitmap.close();
  }
  throw new NoPicture();
}

async function open(file) {
  // Drawings are programs as well; some browsers would open them.
  if (file.size > MAX_FILE_BYTES || file.type.includes("svg")) throw new NoPicture();
  try {
    return await createImageBitmap(file);
  } catch {
    throw new NoPicture();
  }
}

function drawn(bitmap, most) {
  const side = Math.min(bitmap.width, bitmap.height);
  const size = Math.min(side, most);
  const canvas = document.createElement("canvas");
  canvas.width = size;
  canvas.height = size;
  const pen = canvas.getContext("2d");
  pen.imageSmoothingQuality = "high";
  const [left, top] = [(bitmap.width - side) / 2, (bitmap.height - side) / 2];
  pen.drawImage(bitmap, left, top, side, side, 0, 0, size, size);
  return canvas;
}

async function written(canvas) {
  const blobs = [await toBlob(canvas, "image/webp", 0.86)];
  // Browsers that write no WebP have made a PNG of it: that keeps what is clear, but may be large.
  if (blobs[0]?.type !== "image/webp") blobs.push(await toBlob(onWhite(canvas), "image/jpeg", 0.86));
  return blobs.filter((blob) => blob !== null);
}

function onWhite(canvas) {
  const pen = canvas.getContext("2d");
  pen.globalCompositeOperation = "destination-over";
  pen.fillStyle = "#fff";
  pen.fillRect(0, 0, canvas.width, canvas.height);
  return canvas;
}

function toBlob(canvas, type, quality) {
  return new Promise((resolve) => canvas.toBlob(resolve, type, quality));
}
