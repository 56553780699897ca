// The page is complete without this: it shows the values at the step that is pointed at.
for (const group of document.querySelectorAll("section.group")) {
  const charts = [...group.querySelectorAll("svg.chart")], at = group.querySelector(".at");
  const plots = charts.map(chart => Object.fromEntries(Object.entries(chart.dataset).map(([k, v]) => [k, +v])));
  const cells = charts.map((_, k) => [...group.querySelectorAll(`.legend td:nth-child(${k + 2})`)]);
  const all = [at, ...cells.flat()], ends = all.map(cell => cell.textContent);
  const lines = charts.map(chart => [...chart.querySelectorAll(".line")].map(line =>
    [...line.getAttribute("d").matchAll(/([\d.]+) ([\d.]+)/g)].map(m => [+m[1], +m[2]])));
  const guides = charts.map(chart => {
    const guide = document.createElementNS("http://www.w3.org/2000/svg", "path");
    guide.setAttribute("class", "guide");
    return chart.appendChild(guide);
  });
  const text = (v, digits) => {
    const size = Math.abs(v);
    return v === 0 ? "0" : size >= 1e-3 && size < 1e4 ? String(+v.toPrecision(digits)) : v.toExponential(1).replace("+", "").replace(".0e", "e");
  };
  const read = (points, x, { low, high, log, top, bottom, above, below }) => {
    const i = points.findIndex(p => p[0] >= x);
    if (!points.length || i < 0 && x > points.at(-1)[0] + 6) return "–";
    const b = points[i < 0 ? points.length - 1 : i], a = points[Math.max((i < 0 ? points.length : i) - 1, 0)];
    const y = b[0] > a[0] ? a[1] + (b[1] - a[1]) * Math.min((x - a[0]) / (b[0] - a[0]), 1) : b[1];
    const share = (bottom - y) / (bottom - top);
    const beyond = above && share > .999 ? "> " : below && share < .001 ? "< " : "";
    return beyond + text(log ? low * (high / low) ** share : low + (high - low) * share, log ? 2 : 3);
  };
  const show = event => {
    const chart = event.currentTarget, box = chart.getBoundingClientRect(), plot = plots[charts.indexOf(chart)];
    const pointed = (event.clientX - box.left) / box.width * chart.viewBox.baseVal.width;
    const share = Math.min(Math.max((pointed - plot.left) / (plot.right - plot.left), 0), 1);
    at.textContent = "step " + Math.round(share * plot.steps).toLocaleString("en");
    plots.forEach((plot, k) => {
      const x = plot.left + share * (plot.right - plot.left);
      guides[k].setAttribute("d", `M${x} ${plot.top}V${plot.bottom}`);
      lines[k].forEach((points, i) => { cells[k][i].textContent = read(points, x, plot); });
    });
  };
  const hide = () => { all.forEach((cell, i) => { cell.textContent = ends[i]; }); guides.forEach(g => g.setAttribute("d", "")); };
  for (const chart of charts) {
    chart.addEventListener("pointermove", show);
    chart.addEventListener("pointerdown", show);
    chart.addEventListener("pointerleave", hide);
  }
}
