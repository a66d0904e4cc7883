// Synthetic landscapes to try search strategies on that no strategy was fitted to by hand: T4 objects, the same ones for the same seed.
// `tiles` imitates a tiled kernel on a GPU (occupancy in steps, halos, coalescing, waves, bank conflicts, too many registers fail);
// `field` is a random sum of main effects and interactions of two and three parameters, with failures beyond a random plane.

function generator(seed) {
  let a = seed * 2654435761;
  return () => {
    a = (a + 0x6d2b79f5) | 0;
    let t = Math.imul(a ^ (a >>> 15), 1 | a);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

const normalOf = (uniform) => () => Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform());
const pow2 = (from, to) => Array.from({ length: to - from + 1 }, (_, i) => 2 ** (from + i));
const upTo = (count) => Array.from({ length: count }, (_, i) => i + 1);

function* combinations(parameters) {
  const names = Object.keys(parameters);
  const total = names.reduce((product, name) => product * parameters[name].length, 1);
  for (let i = 0; i < total; i++) {
    let rest = i;
    const configuration = {};
    for (const name of names) {
      configuration[name] = parameters[name][rest % parameters[name].length];
      rest = Math.floor(rest / parameters[name].length);
    }
    yield configuration;
  }
}

/** [configuration, cost or NaN] pairs as a T4 object. */
function toT4(entries) {
  return {
    metadata: { timeunit: "miliseconds" },
    schema_version: "1.0.0",
    results: entries.map(([configuration, cost]) => ({
      configuration,
      times: {},
      invalidity: Number.isNaN(cost) ? "runtime" : "correct",
      correctness: Number.isNaN(cost) ? 0 : 1,
      measurements: [{ name: "time", value: Number.isNaN(cost) ? "RuntimeFailedConfig" : cost, unit: "" }],
      objectives: ["time"],
    })),
  };
}

export function tiles(seed) {
  const uniform = generator(seed);
  const normal = normalOf(uniform);
  const between = (low, high) => low + (high - low) * uniform();
  const parameters = {
    block_x: uniform() < 0.5 ? pow2(2, 8) : Array.from({ length: 12 }, (_, i) => 16 * (i + 1)),
    block_y: pow2(0, 5),
    tile_x: upTo(4),
    tile_y: uniform() < 0.5 ? upTo(6) : pow2(0, 3),
    unroll: [0, 1, 2, 4],
    vector: [1, 2, 4],
    shared: [0, 1],
    pad: [0, 1],
  };
  const registersPerTile = between(2, 7);
  const halo = Math.floor(between(0, 16));
  const units = Math.floor(between(20, 120));
  const occupancyPower = between(0.2, 0.9);
  const bytesWeight = Math.exp(normal());
  const sharedGain = between(0.3, 1.1);
  const roofs = between(2, 8);
  const unrollEffect = parameters.unroll.map(() => Math.exp(0.15 * normal()));
  const vectorEffect = parameters.vector.map(() => Math.exp(0.15 * normal()));
  const roughness = between(0.01, 0.08);
  const entries = [];
  for (const c of combinations(parameters)) {
    const threads = c.block_x * c.block_y;
    if (threads < 32 || threads > 1024 || (c.pad && !c.shared) || (c.tile_x * c.tile_y) % c.vector !== 0) continue;
    const warps = Math.ceil(threads / 32);
    const work = c.tile_x * c.tile_y;
    const registers = 18 + registersPerTile * work + 2 * c.unroll * c.vector;
    const width = c.block_x * c.tile_x;
    const height = c.block_y * c.tile_y;
    const bytes = c.shared ? (width + halo + c.pad) * (height + halo) * 4 : 0;
    const resident = Math.min(
      16,
      Math.floor(65536 / (registers * warps * 32)),
      bytes ? Math.floor(98304 / bytes) : 16,
      Math.floor(64 / warps),
    );
    if (resident === 0 || registers > 200) {
      entries.push([c, Number.NaN]);
      continue;
    }
    const blocks = Math.ceil(4096 / width) * Math.ceil(4096 / height);
    const slots = units * resident;
    const waves = (Math.ceil(blocks / slots) * slots) / blocks;
    const occupancy = (resident * warps) / 64;
    const parallel = Math.min(1, occupancy ** occupancyPower * (1 + 0.25 * Math.log2(work * Math.max(1, c.unroll))));
    const compute = ((1 + 1.2 / work) * unrollEffect[parameters.unroll.indexOf(c.unroll)]) / parallel;
    const reread = ((width + halo) * (height + halo)) / (width * height);
    const coalesced = Math.min(1, (c.block_x * c.vector) / 32);
    const conflicts = c.shared && !c.pad && c.block_x % 32 === 0 && c.tile_x % 2 === 0 ? 1.5 : 1;
    const memory =
      ((c.shared ? sharedGain * conflicts : 1) * reread * bytesWeight * vectorEffect[parameters.vector.indexOf(c.vector)]) /
      (coalesced * Math.min(1, occupancy * 2) * Math.min(1, warps / 2));
    entries.push([c, (compute ** roofs + memory ** roofs) ** (1 / roofs) * waves * Math.exp(roughness * normal())]);
  }
  return toT4(entries);
}

export function field(seed) {
  const uniform = generator(seed + 1000);
  const normal = normalOf(uniform);
  const width = 5 + Math.floor(4 * uniform());
  const parameters = {};
  let size = 1;
  for (let p = 0; p < width; p++) {
    const count = 2 + Math.floor(uniform() ** 2 * 14);
    if (size * count > 20000) continue;
    size *= count;
    parameters[`p${p}`] = uniform() < 0.15 ? Array.from({ length: count }, (_, i) => `v${i}`) : upTo(count);
  }
  const names = Object.keys(parameters);
  const walk = (count, smooth) => {
    const values = [];
    for (let i = 0, at = 0; i < count; i++) {
      at = smooth ? at + normal() / Math.sqrt(count) : normal();
      values.push(at);
    }
    return values;
  };
  const effects = names.map((name) => walk(parameters[name].length, uniform() < 0.6).map((v) => v * Math.exp(0.7 * normal() - 0.5)));
  const tables = [];
  for (let t = 0; t < names.length + 3; t++) {
    const of = [...names.keys()].sort(() => uniform() - 0.5).slice(0, t < names.length ? 2 : 3);
    const smooth = uniform() < 0.5;
    const scale = 0.5 * Math.exp(0.7 * normal() - 0.5);
    const parts = of.map((p) => walk(parameters[names[p]].length, smooth));
    tables.push({ of, value: (codes) => scale * of.reduce((product, p, i) => product * parts[i][codes[p]], 1) });
  }
  const plane = names.map(() => normal());
  const border = 1 + uniform();
  const noise = 0.02 + 0.1 * uniform();
  const stretch = 0.3 + uniform();
  const entries = [];
  for (const c of combinations(parameters)) {
    const codes = names.map((name) => parameters[name].indexOf(c[name]));
    const side =
      codes.reduce((sum, code, p) => sum + plane[p] * ((2 * code) / (parameters[names[p]].length - 1) - 1), 0) / Math.hypot(...plane);
    if (side > border + 0.4) continue;
    const y = codes.reduce((sum, code, p) => sum + effects[p][code], 0) + tables.reduce((sum, { value }) => sum + value(codes), 0);
    entries.push([c, side > border ? Number.NaN : Math.exp(stretch * y + noise * normal())]);
  }
  return toT4(entries);
}
