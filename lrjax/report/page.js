// The page is complete without this: it shows the values at the step that is pointed at.
const LEFT = 50, RIGHT = 424, TOP = 30, BOTTOM = 226, WIDTH = 440;
for (const group of document.querySelectorAll("section.group")) {
  const charts = [...group.querySelectorAll("svg.chart")], at = group.querySelector(".at");
  const cells = charts.map((_, k) => [...group.querySelectorAll(`.legend td:nth-child(${k + 2})`)]);
  const all = [at, ...cells.flat()], ends = all.map(cell => cell.textContent);
  const lines = charts.map(chart => [...chart.querySelectorAll(".line")].map(line =>
    [...line.getAttribute("d").matchAll(/([\d.]+) ([\d.]+)/g)].map(m => [+m[1], +m[2]])));
  const guides = charts.map(chart => {
    const guide = document.createElementNS("http://www.w3.org/2000/svg", "path");
    guide.setAttribute("class", "guide");
    return chart.appendChild(guide);
  });
  const text = v => v === 0 ? "0" : v >= 1e-3 && v < 1e4 ? String(+v.toPrecision(2)) : v.toExponential(1).replace("+", "");
  const read = (points, x, { low, high, log }) => {
    const i = points.findIndex(p => p[0] >= x);
    if (!points.length || i < 0 && x > points.at(-1)[0] + 6) return "–";
    const b = points[i < 0 ? points.length - 1 : i], a = points[Math.max((i < 0 ? points.length : i) - 1, 0)];
    const y = b[0] > a[0] ? a[1] + (b[1] - a[1]) * Math.min((x - a[0]) / (b[0] - a[0]), 1) : b[1];
    const share = (BOTTOM - y) / (BOTTOM - TOP);
    return (share > .999 && log === "1" ? "> " : "") + text(log === "1" ? low * (high / low) ** share : +low + (high - low) * share);
  };
  const show = event => {
    const box = event.currentTarget.getBoundingClientRect();
    const x = Math.min(Math.max((event.clientX - box.left) / box.width * WIDTH, LEFT), RIGHT);
    const step = Math.round((x - LEFT) / (RIGHT - LEFT) * charts[0].dataset.steps);
    at.textContent = "step " + step.toLocaleString("en");
    charts.forEach((chart, k) => {
      guides[k].setAttribute("d", `M${x} ${TOP}V${BOTTOM}`);
      lines[k].forEach((points, i) => { cells[k][i].textContent = read(points, x, chart.dataset); });
    });
  };
  const hide = () => { all.forEach((cell, i) => { cell.textContent = ends[i]; }); guides.forEach(g => g.setAttribute("d", "")); };
  for (const chart of charts) {
    chart.addEventListener("pointermove", show);
    chart.addEventListener("pointerdown", show);
    chart.addEventListener("pointerleave", hide);
  }
}
