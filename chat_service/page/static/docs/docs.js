// Shows the successful responses of an operation, and folds its errors, which /problems explains in full.
const foldErrors = () => ({
  wrapComponents: {
    responses: (Original, { React }) => (props) => {
      const isError = (_, status) => !/^[123]/.test(status);
      const show = (responses) => React.createElement(Original, { ...props, responses });
      const errors = props.responses.filter(isError);
      if (errors.size === 0) return show(props.responses);
      return React.createElement(
        "div",
        null,
        show(props.responses.filterNot(isError)),
        React.createElement(
          "details",
          { style: { padding: "0 20px 20px" } },
          React.createElement("summary", { style: { cursor: "pointer" } }, `What can go wrong: ${errors.keySeq().join(", ")}`),
          show(errors),
        ),
      );
    },
  },
});

// Everything comes from the specification; no request goes to any other host (validatorUrl).
window.ui = SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#docs",
  deepLinking: true,
  validatorUrl: null,
  tryItOutEnabled: false,
  plugins: [foldErrors],
});
