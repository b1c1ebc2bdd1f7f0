"use strict";
// Draws each figure of the page in the page's own colours, anew when these change or the window does.
{
  const scheme = matchMedia("(prefers-color-scheme: dark)");
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  const text = (markup) => markup.replaceAll("<br>", " ").replaceAll("&lt;", "<").replaceAll("&gt;", ">").replaceAll("&amp;", "&");

  const layoutOf = (layout, width) => {
    const [ink, quiet, line, panel] = ["ink", "quiet", "line", "panel"].map(colour);
    const narrow = width < 600;
    const axis = (given) => {
      const made = { ...given, gridcolor: line, linecolor: line, tickcolor: line };
      if (narrow && given.title?.text) made.title = { ...given.title, text: given.title.text.replace(/ \(.*/, "") };
      if (narrow && given.tickvals?.length > 7) {
        const every = (_, place) => (given.tickvals.length - 1 - place) % 2 === 0;
        made.tickvals = given.tickvals.filter(every);
        made.ticktext = given.ticktext.filter(every);
      }
      return made;
    };
    return {
      ...layout,
      width,
      height: layout.height ?? 420,
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { ...layout.font, color: quiet },
      margin: { t: layout.coloraxis ? 70 : 30, r: narrow ? 8 : 16, b: 50, l: narrow ? 40 : 52 },
      xaxis: axis(layout.xaxis),
      yaxis: axis(layout.yaxis),
      hoverlabel: { ...layout.hoverlabel, bgcolor: panel, bordercolor: line, font: { ...layout.font, color: ink } },
      annotations: (layout.annotations ?? []).filter((each) => !(narrow && each.name === "wide stage")),
      // A finger that strokes over a figure scrolls the page.
      dragmode: narrow ? false : "zoom",
    };
  };

  const draw = async (chart, spec) => {
    const width = chart.clientWidth;
    const layout = layoutOf(structuredClone(spec.layout), width);
    await Plotly.react(chart, structuredClone(spec.data), layout, { displayModeBar: false });
    // The legend lies below the plot, which keeps its height.
    const legend = chart.querySelector(".legend")?.getBBox().height ?? 0;
    await Plotly.relayout(chart, { height: layout.height + legend, "margin.b": 60 + legend });
  };

  // Left and right go from mark to mark, and say what each stands for.
  const walk = (chart, spec, told) => {
    const marks = spec.data
      .flatMap((trace, curveNumber) =>
        trace.hoverinfo === "skip" ? [] : trace.x.map((x, pointNumber) => {
          const label = trace.hovertext ?? trace.text ?? trace.name;
          return { x, curveNumber, pointNumber, label: Array.isArray(label) ? label[pointNumber] : label };
        }))
      .sort((a, b) => a.x - b.x || a.curveNumber - b.curveNumber);
    let place = -1;
    chart.tabIndex = 0;
    chart.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step || !marks.length) return;
      event.preventDefault();
      place = (place + step + marks.length) % marks.length;
      const { curveNumber, pointNumber, label } = marks[place];
      Plotly.Fx.hover(chart, [{ curveNumber, pointNumber }]);
      told.textContent = text(label);
    });
    chart.addEventListener("blur", () => Plotly.Fx.unhover(chart));
  };

  const figures = [...document.querySelectorAll("figure.plot")].map((figure) => [
    figure.querySelector(".chart"),
    JSON.parse(figure.querySelector("script").textContent),
    figure.querySelector("output"),
  ]);
  const drawAll = () => Promise.all(figures.map(([chart, spec]) => draw(chart, spec)));
  for (const [chart, spec, told] of figures) {
    chart.replaceChildren();
    walk(chart, spec, told);
  }
  drawAll();
  let width = innerWidth;
  let soon;
  addEventListener("resize", () => {
    if (innerWidth === width) return;
    width = innerWidth;
    clearTimeout(soon);
    soon = setTimeout(drawAll, 150);
  });
  scheme.addEventListener("change", drawAll);
  // Paper is white.
  addEventListener("beforeprint", () => { document.documentElement.dataset.paper = ""; drawAll(); });
  addEventListener("afterprint", () => { delete document.documentElement.dataset.paper; drawAll(); });
}
